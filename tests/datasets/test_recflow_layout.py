"""A simulated world in RecFlow's layout: its daily files and its truth."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from corank.core.errors import ConfigError, DataError
from corank.datasets import recflow as importer
from corank.datasets.recflow_layout import COLUMNS, simulate_recflow
from tests.support.recflow import DAYS, SMALL, stage

SCHEMA = """request_id request_timestamp user_id device_id age gender province video_id author_id category_level_one
category_level_two upload_type upload_timestamp duration realshow rerank_pos rerank_neg rank_pos rank_neg coarse_neg
prerank_neg rank_index rerank_index playing_time effective_view long_view like follow forward comment"""


def test_the_files_have_recflows_columns_one_of_them_spelt_with_a_space_every_other_day(
    recflow_world: Path,
) -> None:
    columns = SCHEMA.split()
    assert list(COLUMNS) == columns
    spaced = [" category_level_two" if name == "category_level_two" else name for name in columns]
    for folder in ("all_stage", "realshow"):
        files = sorted((recflow_world / folder).iterdir())
        assert [file.name for file in files] == [f"{day}.feather" for day in DAYS]
        for n, file in enumerate(files):
            schema = pl.read_ipc_schema(file)
            assert list(schema) == (spaced if n % 2 else columns)
            assert set(schema.values()) == {pl.Int64}


def test_every_request_has_what_the_protocol_takes(recflow_world: Path) -> None:
    days = [stage(recflow_world, day) for day in DAYS]
    flags = (
        pl.concat(days)
        .group_by("request_id")
        .agg(pl.col(list(importer.EVERY)).sum(), pl.col("rerank_neg").sum())
    )
    assert flags.height == 400
    # Of 50 production ranks 30 and keeps 20, of which a page holds 10, 6 of them on screen.
    expected = {"rank_pos": 20, "realshow": 6}
    for name in flags.columns[1:]:
        count = expected.get(name, 10)
        assert (flags[name] == count).all(), name
    rows = pl.concat(days)
    assert rows.select(pl.sum_horizontal(list(importer.TWO_STAGE)) == 1).to_series().all()
    assert rows.filter(realshow=1)["rerank_pos"].min() == 1
    assert rows.filter(rerank_pos=1)["rank_pos"].min() == 1
    ranked = rows.filter(pl.col("rank_index") > 0).group_by("request_id").agg(pl.col("rank_index").sort())
    assert ranked["rank_index"].to_list() == [list(range(1, 31))] * 400
    assert rows.filter(rank_pos=1)["rank_index"].max() == 20


def test_days_begin_in_china_and_the_exposed_are_repeated_apart(recflow_world: Path) -> None:
    for day in DAYS:
        rows = stage(recflow_world, day)
        time = pl.from_epoch(rows["request_timestamp"], time_unit="ms").dt.replace_time_zone("UTC")
        assert time.dt.convert_time_zone("Asia/Shanghai").dt.date().unique().to_list() == [day]
        assert (rows["upload_timestamp"] * 1000 <= rows["request_timestamp"]).all()
        assert stage(recflow_world, day, "realshow").equals(rows.filter(realshow=1))


def test_views_of_30_percent_are_effective_and_whole_ones_long(recflow_world: Path) -> None:
    rows = pl.concat(stage(recflow_world, day) for day in DAYS)
    shown, hidden = rows.filter(realshow=1), rows.filter(realshow=0)
    assert hidden.select("playing_time", "effective_view", "long_view", "like").sum().row(0) == (0, 0, 0, 0)
    share = shown["playing_time"] / shown["duration"]
    effective = shown["effective_view"] == 1
    assert (
        share.filter(effective).to_numpy().min() > 0.299 and share.filter(~effective).to_numpy().max() < 0.3
    )
    assert shown.filter(shown["long_view"] == 1)["effective_view"].min() == 1
    assert share.filter(shown["long_view"] == 1).to_numpy().min() > 0.999
    assert 0 < shown["like"].sum() < shown["effective_view"].sum()


def test_the_truth_is_apart_and_of_every_candidate(recflow_world: Path) -> None:
    for day in DAYS:
        truth = pl.read_parquet(recflow_world / "truth" / f"{day}.parquet")
        assert truth.columns == ["request_id", "video_id", "effective_view"]
        assert truth.select("request_id", "video_id").equals(
            stage(recflow_world, day).select("request_id", "video_id")
        )
        assert truth["effective_view"].is_between(0, 1).all()


def test_same_arguments_write_the_same_bytes_and_another_seed_does_not(
    tmp_path: Path, recflow_world: Path
) -> None:
    simulate_recflow(tmp_path / "a", preset="strong", **SMALL)
    simulate_recflow(tmp_path / "b", preset="strong", seed=1, **SMALL)
    files = [path.relative_to(recflow_world) for path in recflow_world.rglob("*") if path.is_file()]
    assert len(files) == 30
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (recflow_world / file).read_bytes()
        assert (tmp_path / "b" / file).read_bytes() != (recflow_world / file).read_bytes()


def test_a_world_is_not_written_over_another_unless_asked(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"requests": 10, "candidates": 10, "users": 5, "items": 20}
    with pytest.raises(ConfigError, match="candidates"):
        simulate_recflow(tmp_path, **(tiny | {"candidates": 9}))
    simulate_recflow(tmp_path, **tiny)
    stale = tmp_path / "all_stage" / "2024-02-01.feather"
    stale.write_bytes(b"stale")
    with pytest.raises(DataError, match="not empty"):
        simulate_recflow(tmp_path, **tiny)
    simulate_recflow(tmp_path, overwrite=True, **tiny)
    assert not stale.exists()

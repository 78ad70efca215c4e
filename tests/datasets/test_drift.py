"""A simulated world that drifts: tastes walk, items come and go, files are by day."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.traffic import Traffic
from corank.datasets.feed.world import World

SMALL: dict[str, Any] = {"requests": 400, "candidates": 20, "users": 40, "items": 200, "days": 8}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drift")
    simulate_world(out, drift={"lifetime": 4}, **SMALL)
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_same_options_write_the_same_bytes_also_over_an_earlier_world(world: Path, tmp_path: Path) -> None:
    simulate_world(tmp_path, drift={"lifetime": 6}, **(SMALL | {"days": 12}))
    simulate_world(tmp_path, drift={"lifetime": 4}, overwrite=True, **SMALL)
    assert content(tmp_path) == content(world)


def test_a_file_of_the_log_and_of_truth_holds_a_day_and_one_of_items_those_published_on_it(
    world: Path,
) -> None:
    days = [f"2026-03-{day:02}.parquet" for day in range(1, 9)]
    for folder in ("log", "truth"):
        assert sorted(path.name for path in (world / folder).iterdir()) == days
    for path in (world / "log").iterdir():
        assert set(pl.read_parquet(path)["time"].dt.date().cast(pl.String)) == {path.stem}
    for path in (world / "items").iterdir():
        assert set(pl.read_parquet(path)["published"].dt.date().cast(pl.String)) == {path.stem}
    log, truth = pl.read_parquet(world / "log/*.parquet"), pl.read_parquet(world / "truth/*.parquet")
    assert log.select("request_id", "item_id").equals(truth.select("request_id", "item_id"))
    assert log["request_id"].is_sorted() and log["request_id"].n_unique() == SMALL["requests"]


def test_items_are_candidates_during_their_lifetime_alone_and_as_many_are_there_at_any_time(
    world: Path,
) -> None:
    log, items = pl.read_parquet(world / "log/*.parquet"), pl.read_parquet(world / "items/*.parquet")
    assert items["item_id"].n_unique() == items.height == 200 * (8 + 4) / 4
    rows = log.join(items, on="item_id", how="left")
    age = (pl.col("time") - pl.col("published")).dt.total_seconds(fractional=True) / 86_400
    extremes = rows.select(low=age.min(), high=age.max())
    assert extremes["low"].item() > 0 and 3.9 < extremes["high"].item() <= 4
    published = items["published"].dt.epoch("ms").to_numpy()
    for time in log["time"].dt.epoch("ms").to_numpy()[::500]:
        assert abs(((published < time) & (published >= time - 4 * 86_400_000)).sum() - 200) <= 1
    assert set(rows["channel"]) == {"popular", "taste", "category", "fresh", "random"}


def drifting(drift: Mapping[str, Any], users: int = 2_000) -> Traffic:
    return Traffic(World.model_validate(SMALL | {"users": users, "drift": drift}))


def test_tastes_walk_by_the_step_and_keep_their_variance() -> None:
    realities = list(drifting({"walk": 0.3}).realities())
    first = realities[0].users.taste
    for days in (1, 7):
        later = realities[days].users.taste
        expected = (1 - 0.3**2) ** (days / 2)
        assert np.corrcoef(first.ravel(), later.ravel())[0, 1] == pytest.approx(expected, abs=0.05)
        assert later.var() == pytest.approx(first.var(), abs=0.15)
    assert len({reality.base for reality in realities}) == 8 and max(abs(r.base) for r in realities) < 1
    assert not np.array_equal(realities[0].tab, realities[1].tab)
    assert np.array_equal(realities[0].items.taste, realities[7].items.taste)


def test_its_config_packs_and_splits_by_day(world: Path) -> None:
    packed = corank.pack(world / "config.yaml")
    log = pl.read_parquet(world / "log/*.parquet")
    by_day = dict(log.group_by(pl.col("time").dt.day()).agg(pl.col("request_id").n_unique()).iter_rows())
    requests = {split: row["requests"] for split, row in packed["splits"].items()}
    assert (requests["valid"], requests["test"]) == (by_day[7], by_day[8])
    assert requests["train"] == sum(by_day[day] for day in range(1, 7))

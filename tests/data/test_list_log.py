"""A log of impressions with lists of candidates reads like the log with a row per candidate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corank.core.errors import ConfigError, DataError
from corank.core.settings import validate
from corank.data import tables as row_ranges
from corank.data.log_rows import LONGEST, scan_log
from corank.data.packing import pack
from corank.data.packing.pack import pack_log
from corank.data.tables import cut_table
from corank.engine.pool import PoolEngine
from corank.features.log_schema import ROW, DataSettings
from corank.features.schema import Schema
from corank.training.checks.summary import check_config
from corank.training.config.config import Config
from corank.training.config.config_file import from_plain

DATA: dict[str, Any] = {
    "request": ["imp"],
    "user": "user",
    "item": "item",
    "time": "time",
    "labels": {"click": {"column": "clicked"}},
    "position": "place",
    "split": {"valid": "2026-03-02", "test": "2026-03-03"},
}
FEATURES = {
    "user": {"side": "user", "kind": "id"},
    "hour": {"side": "context", "kind": "number", "scale": "quantile"},
    "item": {"side": "item", "kind": "id"},
    "match": {"side": "cross", "kind": "number", "scale": "standard"},
    "seen": {"side": "user", "kind": "ids", "of": "item", "event": "click"},
    "rate": {"kind": "prior", "by": ["item"], "label": "click", "every": "1h"},
}
LISTS = {"files": "log/*.parquet", "list": "candidates", "along": ["clicked", "place", "match"]}
DAY = 86_400_000
FIRST = 1772323200000  # 2026-03-01


def impressions(lengths: list[int], seed: int = 0) -> pl.DataFrame:
    """A row per impression, with the given counts of candidates, over three days."""
    rng = np.random.default_rng(seed)
    n = len(lengths)
    columns: dict[str, Any] = {
        "imp": range(n),
        "user": rng.integers(4, size=n),
        "time": FIRST + np.linspace(0, 3 * DAY - 1, n).astype(np.int64),
        "hour": rng.random(n),
        "candidates": [rng.permutation(20)[:k].tolist() for k in lengths],
        "clicked": [rng.integers(2, size=k).tolist() for k in lengths],
        "place": [list(range(k)) for k in lengths],
        "match": [rng.random(k).tolist() for k in lengths],
    }
    lists = {"candidates": pl.List(pl.Int64), "clicked": pl.List(pl.Int8), "place": pl.List(pl.Int64)}
    return pl.DataFrame(columns, schema_overrides=lists | {"match": pl.List(pl.Float64)})


def exploded(frame: pl.DataFrame) -> pl.DataFrame:
    """The same with a row per candidate."""
    rows = frame.filter(pl.col("candidates").list.len() > 0).explode(
        "candidates", "clicked", "place", "match"
    )
    return rows.rename({"candidates": "item"})


def written(folder: Path, frame: pl.DataFrame, files: int = 3) -> Path:
    """Write a table as some files."""
    (folder / "log").mkdir(parents=True)
    size = -(-len(frame) // files)
    for n in range(files):
        frame[n * size : (n + 1) * size].write_parquet(folder / "log" / f"{n}.parquet")
    return folder


def data(log: Any) -> DataSettings:
    return validate(DataSettings, DATA | {"log": log}, "data")


def config() -> Config:
    value: dict[str, Any] = {"name": "x", "data": DATA | {"log": LISTS}, "features": FEATURES}
    value["stages"] = [{"name": "rank", "model": "mlp", "keep": 5}]
    value["losses"] = [{"kind": "click", "stage": "rank"}]
    return from_plain(value, "config", Path())


def schema() -> Schema:
    return config().declared


def arrays(folder: Path) -> dict[str, bytes]:
    """All packed files but the manifest, which names the source files."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "manifest.json"
    }


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=12), size=st.integers(1, 40))
def test_ranges_read_each_candidate_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], size: int
) -> None:
    frame = impressions(lengths)
    table = scan_log(data(LISTS), written(tmp_path_factory.mktemp("log"), frame))
    read = [
        part
        for rows in cut_table(table, size)
        for part in rows.read(table, [pl.col("imp", "item", "clicked")])
    ]
    candidates = pl.concat(read)
    assert candidates.drop(ROW).rows() == exploded(frame).select("imp", "item", "clicked").rows()
    assert candidates[ROW].to_list() == [
        n * LONGEST + k for n, length in enumerate(lengths) for k in range(length)
    ]
    assert table.collect(table.frame).select("imp", "item").rows() == candidates.select("imp", "item").rows()


@pytest.mark.slow
def test_lists_pack_to_the_bytes_of_rows_by_any_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_ranges, "BATCH", 64)
    monkeypatch.setattr(pack, "PARTITION", 200)
    frame = impressions([k % 9 for k in range(150)])
    lists, rows = written(tmp_path / "lists", frame), written(tmp_path / "rows", exploded(frame))
    pack_log(data("log/*.parquet"), schema(), rows, rows / "packed")
    expected = arrays(rows / "packed")
    assert any("label.click" in name for name in expected)
    for workers in (1, 2):
        with PoolEngine(workers=workers) as engine:
            pack_log(data(LISTS), schema(), lists, lists / f"packed{workers}", engine=engine)
        assert arrays(lists / f"packed{workers}") == expected


def test_members_are_labels(tmp_path: Path) -> None:
    frame = impressions([3, 0, 4]).with_columns(
        likes=pl.Series([[], None, [99]], dtype=pl.List(pl.Int32)),
        chosen=pl.col("candidates").list.head(2),
    )
    log = LISTS | {"members": {"like": "likes", "click2": "chosen"}}
    table = scan_log(data(log), written(tmp_path, frame, 1))
    read = table.collect(table.frame)
    assert read["like"].to_list() == [0] * 7 and read["click2"].to_list() == [1, 1, 0, 1, 1, 0, 0]


def test_fixed_size_arrays_and_feather(tmp_path: Path) -> None:
    frame = impressions([3, 3]).with_columns(pl.col("candidates").list.to_array(3))
    frame.write_ipc(tmp_path / "log.feather")
    table = scan_log(data(LISTS | {"files": "log.feather"}), tmp_path)
    assert len(table.collect(table.frame)) == 6 and table.types["item"] == pl.Int64


def test_check_counts_candidates(tmp_path: Path) -> None:
    written(tmp_path, impressions([4, 0, 3, 5, 2, 6]))
    assert check_config(config(), tmp_path).rows["log"] == 20


def shorter(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.col("imp") == 1).then(pl.col("clicked").list.head(1)).otherwise("clicked").alias("clicked")
    )


def without_labels(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.when(pl.col("imp") == 2).then(None).otherwise("clicked").alias("clicked"))


def null_candidate(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("candidates").list.eval(pl.when(pl.element() != 3).then(pl.element())))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            shorter,
            "data.log: row 2: column 'clicked' has 1 elements, 'candidates' 3; lists of a row go along",
        ),
        (without_labels, "data.log: row 3: column 'clicked' has 0 elements, 'candidates' 20"),
        (lambda frame: frame.drop("place"), "data.log: no column 'place'"),
        (lambda frame: frame.with_columns(place=1), "data.log: column 'place' is Int32; expected lists"),
        (lambda frame: frame.with_columns(item=1), "have a column 'item' beside the lists 'candidates'"),
        (null_candidate, "data.log: column 'item' is null in"),
        (lambda frame: frame.head(0), "the log is empty"),
    ],
)
def test_faulty_lists_are_told(
    tmp_path: Path, spoil: Callable[[pl.DataFrame], pl.DataFrame], told: str
) -> None:
    base = written(tmp_path, spoil(impressions([4, 3, 20, 5])), 1)
    with pytest.raises(DataError) as error:
        pack_log(data(LISTS), schema(), base, tmp_path / "packed")
    assert told in str(error.value)
    assert not (tmp_path / "packed").exists()


def test_csv_holds_no_lists(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("imp,candidates,clicked,place,match\n1,1 2,0 1,0 1,0 1\n")
    with pytest.raises(DataError, match=r"expected lists.*CSV cannot hold"):
        scan_log(data(LISTS | {"files": "log.csv"}), tmp_path)


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (LISTS | {"along": ["clicked", "clicked"]}, "'clicked' is named twice"),
        (LISTS | {"members": {"clicked": "chosen"}}, "'clicked' is a column of lists already"),
        (LISTS | {"lists": "x"}, "unknown key 'lists'; did you mean 'list'?"),
        ({"files": "x.parquet"}, "list: required"),
    ],
)
def test_faulty_settings_are_told(log: Any, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        data(log)
    assert told in str(error.value)

"""A log of impressions with lists of candidates reads like the log with a row per candidate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.core.errors import ConfigError, DataError
from corank.core.settings import validate
from corank.data import tables as row_ranges
from corank.data.log_rows import scan_log
from corank.data.packing import pack
from corank.data.packing.pack import pack_log
from corank.engine.pool import PoolEngine
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
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
INDEXED = {"files": "log/*.parquet", "list": "candidates", "along": ["clicked", "match"], "index": "nth"}
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


@pytest.mark.slow
def test_lists_pack_to_the_bytes_of_rows_by_any_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_ranges, "BATCH", 64)
    monkeypatch.setattr(pack, "PARTITION", 200)
    frame = impressions([k % 9 for k in range(150)])
    lists, rows = written(tmp_path / "lists", frame), written(tmp_path / "rows", exploded(frame))
    expected = pack_log(data("log/*.parquet"), schema(), rows, rows / "packed").manifest.files
    assert any("label.click" in name for name in expected)
    assert pack_log(data(LISTS), schema(), lists, lists / "packed").manifest.files == expected
    with PoolEngine(workers=2) as engine:
        packed = pack_log(data(LISTS), schema(), lists, lists / "pool", engine=engine)
    assert packed.manifest.files == expected


def test_the_index_in_a_list_is_a_position(tmp_path: Path) -> None:
    base = written(tmp_path, impressions([k % 9 for k in range(60)]))
    expected = pack_log(data(LISTS), schema(), base, tmp_path / "places").manifest
    indexed = validate(DataSettings, DATA | {"log": INDEXED, "position": "nth"}, "data")
    assert pack_log(indexed, schema(), base, tmp_path / "indices").manifest.files == expected.files
    assert any("position" in name for name in expected.files)
    assert "index" not in data(LISTS).model_dump(mode="json")["log"], "earlier packs keep their hashes"
    for name in ("hour", "item"):
        taken = validate(DataSettings, DATA | {"log": INDEXED | {"index": name}}, "data")
        with pytest.raises(DataError, match=f"'{name}' .*already|'{name}' is .*; take another name as index"):
            scan_log(taken, base)
    with pytest.raises(ConfigError, match="index: 'match' is a column already"):
        data(INDEXED | {"index": "match"})


def test_members_are_labels(tmp_path: Path) -> None:
    frame = impressions([3, 3]).with_columns(
        pl.col("candidates").list.to_array(3),
        likes=pl.Series([None, [99]], dtype=pl.List(pl.Int32)),
        chosen=pl.col("candidates").list.head(2),
    )
    frame.write_ipc(tmp_path / "log.feather")
    log = LISTS | {"files": "log.feather", "members": {"like": "likes", "click2": "chosen"}}
    table = scan_log(data(log), tmp_path)
    read = table.collect(table.frame)
    assert read["like"].to_list() == [0] * 6 and read["click2"].to_list() == [1, 1, 0, 1, 1, 0]


def shorter(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.col("imp") == 1).then(pl.col("clicked").list.head(1)).otherwise("clicked").alias("clicked")
    )


def null_candidate(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("candidates").list.eval(pl.when(pl.element() != 3).then(pl.element())))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            shorter,
            "data.log: row 2: column 'clicked' has 1 elements, 'candidates' 3; lists of a row go along",
        ),
        (null_candidate, "data.log: column 'item' is null; every candidate needs one"),
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

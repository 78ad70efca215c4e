"""However the tables are cut into ranges, and values into partitions, the packed data are the same bytes."""

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from corank.data import tables as row_ranges
from corank.data.packing import fit_encoders as measure
from corank.features.kinds.arithmetic import ProductFeature
from corank.features.kinds.bucket import BucketFeature
from corank.features.kinds.count import CountFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.number import NumberFeature
from corank.features.kinds.pair import PairFeature
from corank.features.kinds.prior import PriorFeature
from tests.support.packing import FEATURES, ITEMS, LOG, USERS, World

MORE = {
    "match": NumberFeature(side="cross", kind="number", scale="log"),
    "price": NumberFeature(side="item", kind="number"),
    "match_quantile": NumberFeature(side="cross", kind="number", scale="quantile", column="match"),
    "match_bucket": BucketFeature(side="cross", kind="bucket", buckets=3, column="match"),
    "words": IdsFeature(side="context", kind="ids", separator=","),
    "rate": PriorFeature(kind="prior", by=["item"], label="click", every=timedelta(hours=1)),
    "often": PriorFeature(kind="prior", by=["user", "brand"], buckets=2),
    "liked": CountFeature(kind="count", of=["clicked.brand", "brand"]),
    "fit": ProductFeature(kind="product", of=["age", "price"]),
    "user_brand": PairFeature(kind="pair", of=["user", "brand"]),
    "hashed": IdFeature(side="context", kind="id", hash=10, column="tab"),
}
WORDS = ["b, a", None, "b, a", None, "b, a", "c,b", "", "b"]


def cut(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Cut tables into ranges of so many rows, and their values into partitions."""
    monkeypatch.setattr(row_ranges, "BATCH", rows)
    monkeypatch.setattr(measure, "PARTITION", rows)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "manifest.json"  # it has the times of the files
    }


@pytest.mark.parametrize("rows", [1, 3])
def test_ranges_do_not_change_the_packed_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    log = LOG.with_columns(words=pl.Series(WORDS))
    text = log.with_columns(pl.col("request", "user").cast(pl.String))  # ids as text
    items = ITEMS.with_columns(price=pl.Series([1.5, None, 0.25, 8.0, 3.0]))
    users = USERS.with_columns(pl.col("user").cast(pl.String))
    for n, (table, of_users) in enumerate(((log, USERS), (text, users))):
        packed = []
        for part in ("whole", "cut"):
            if part == "cut":
                cut(monkeypatch, rows)
            folder = tmp_path / f"{n}{part}"
            folder.mkdir()
            world = World(folder, table, items, of_users, features=FEATURES | MORE)
            packed.append(digests(world.pack().folder))
            monkeypatch.undo()
        assert packed[0] == packed[1] and len(packed[0]) > 50


REFUSED: list[tuple[dict[int, Any], str, dict[str, Any]]] = [
    ({4: 0.5, 6: 2.0}, "click", {}),
    ({3: float("nan"), 5: float("inf")}, "match", {}),
    ({2: "odd", 5: "bad"}, "level", {}),
    ({2: None, 5: None}, "item", {}),
    ({4: 0.0, 5: -1.0}, "weight", {"weight": "weight"}),
    ({4: 2.5, 7: 1.5}, "item", {}),
    ({1: 1.5, 6: -2.0}, "place", {"position": "place"}),
    ({1: 1.5, 6: -2.0}, "score", {"scores": {"s": {"column": "score", "scale": "probability"}}}),
]


@pytest.mark.parametrize("changes, column, data", REFUSED)
def test_the_first_bad_row_of_the_log_is_named_whatever_the_ranges(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[int, Any],
    column: str,
    data: dict[str, Any],
) -> None:
    log = LOG.with_columns(weight=pl.lit(1.0), place=pl.lit(0.0), score=pl.lit(0.5))
    values = log[column].to_list()
    for row, value in changes.items():
        values[row] = value
    log = log.with_columns(pl.Series(column, values, strict=False))
    messages = []
    for rows in (100, 3, 2, 1):
        cut(monkeypatch, rows)
        messages.append(World(tmp_path, log, data=data).refused())
    assert len(set(messages)) == 1 and f"'{column}'" in messages[0]
    first = next(iter(changes.values()))
    assert "null in 2 rows" in messages[0] if first is None else str(first) in messages[0]

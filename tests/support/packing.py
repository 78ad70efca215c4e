"""Small tables of a test, packed: a log of eight rows with items and users."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from corank.core.errors import DataError
from corank.core.ragged import Ragged
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import Shard
from corank.data.packing.pack import pack_log
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.number import NumberFeature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from tests.support.configs import data_settings

HOUR = 3_600_000
DAY = 24 * HOUR

# Three days of an hour-stamped log: request, user, item, time, level, click, tab, match
LOG = pl.DataFrame(
    [
        ("a", 1, 10, 1 * HOUR, "exposed", 1, "home", 0.5),
        ("b", 2, 10, 0 * HOUR, "retrieved", None, "feed", 1.0),
        ("a", 1, 11, 1 * HOUR, "exposed", 0, "home", None),
        ("b", 2, 12, 0 * HOUR, "exposed", 1, "feed", 2.0),
        ("a", 1, 12, 1 * HOUR, "preranked", 1, "home", 3.5),
        ("c", 1, 12, 25 * HOUR, "exposed", 1, "home", 0.0),
        ("d", 3, 13, 49 * HOUR, "exposed", None, None, 0.0),
        ("e", 1, 10, 50 * HOUR, "ranked", None, "new", 0.0),
    ],
    schema=["request", "user", "item", "time", "level", "click", "tab", "match"],
    orient="row",
)

ITEMS = pl.DataFrame(
    {"item": [13, 12, 11, 10, 99], "brand": ["y", "x", "y", "x", "z"], "tags": [[1, 2], [], None, [2], [3]]}
)

USERS = pl.DataFrame({"user": [1, 2, 8], "age": [20.0, 40.0, 30.0]})
TRUTH = LOG.select("request", "item", click=pl.col("match").fill_null(9) / 10)
FEATURES = {
    "user": IdFeature(side="user", kind="id"),
    "age": NumberFeature(side="user", kind="number", scale="none"),
    "clicked": IdsFeature(side="user", kind="ids", of="item", event="click", last=2),
    "shown": IdsFeature(side="user", kind="ids", of="item", last=5),
    "tab": IdFeature(side="context", kind="id"),
    "item": IdFeature(side="item", kind="id"),
    "brand": IdFeature(side="item", kind="id"),
    "tags": IdsFeature(side="item", kind="ids"),
    "match": NumberFeature(side="cross", kind="number", scale="none"),
}


@dataclass
class World:
    """Tables of a test, written when packed."""

    folder: Path
    log: pl.DataFrame = field(default_factory=LOG.clone)
    items: pl.DataFrame | None = field(default_factory=ITEMS.clone)
    users: pl.DataFrame | None = field(default_factory=USERS.clone)
    truth: pl.DataFrame | None = None
    features: dict[str, Any] = field(default_factory=lambda: dict(FEATURES))
    data: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def settings(self) -> DataSettings:
        plain: dict[str, Any] = {"level": "level", "split": {"valid": "1970-01-02", "test": "1970-01-03"}}
        plain |= {n: f"{n}.parquet" for n in ("items", "users", "truth") if getattr(self, n) is not None}
        return data_settings(**plain | self.data)

    def pack(self) -> PackedDataset:
        for name in ("log", "items", "users", "truth"):
            table = getattr(self, name)
            if table is not None:
                table.write_parquet(self.folder / f"{name}.parquet")
        out = self.folder / "packed"
        return pack_log(self.settings(), Schema(self.features), self.folder, out, self.said.append)

    def refused(self) -> str:
        with pytest.raises(DataError) as error:
            self.pack()
        assert not (self.folder / "packed").exists()
        assert not [path for path in self.folder.iterdir() if path.name.startswith(".")]
        return str(error.value)


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.values[s : s + n].tolist() for s, n in zip(ragged.start, ragged.length, strict=True)]


def only(packed: PackedDataset, split: str) -> Shard:
    (shard,) = packed.splits[split]
    return shard

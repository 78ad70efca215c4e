"""A small log whose items change with time, packed: for tests of what batches draw beyond the log."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from corank.batches.sampling import BATCH, CATALOGUE, Population
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.features.feature_kind import FeatureKind
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.number import NumberFeature
from corank.features.schema import Schema
from tests.support.configs import data_settings

DAY = 86_400_000
RETRIEVED, RANKED, EXPOSED = range(3)
LEVELS = ["retrieved", "ranked", "exposed"]
REQUESTS, TRAIN_ITEMS, ITEMS = 60, 30, 40
"""Items 30 to 34 are candidates after training alone, 35 to 39 never."""
WANTED: Population = {RETRIEVED: 1, EXPOSED: None, BATCH: 4, CATALOGUE: 6}

SCHEMA = Schema(
    {
        "user": IdFeature(side="user", kind="id", dim=4),
        "number": NumberFeature(side="context", kind="number", scale="none"),
        "item": IdFeature(side="item", kind="id", dim=4),
        # an item's number times ten plus its version: distinguishes the rows of a batch
        "mark": NumberFeature(side="item", kind="number", scale="none"),
        "match": NumberFeature(side="cross", kind="number", scale="none"),
        "pair": IdFeature(side="cross", kind="id", dim=4),
        "shared": IdsFeature(side="cross", kind="ids", dim=4),
    }
)


def write_tables(base: Path) -> pl.DataFrame:
    """A log of 4 days, two of them training; items change at noon of the first and of the second."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(REQUESTS):
        time = number * 4 * DAY // REQUESTS
        among = TRAIN_ITEMS if time < 2 * DAY else 35
        items = rng.permutation(among)[: rng.integers(3, 9)]
        rows += [(number, number % 5, int(item), time, str(rng.choice(LEVELS))) for item in items]
    log = pl.DataFrame(rows, schema=["number", "user", "item", "time", "level"], orient="row")
    log = log.with_columns(
        weight=pl.lit(7.0),
        click=pl.lit(1),
        score=pl.lit(0.5),
        match=pl.lit(3.0),
        pair=pl.lit("p"),
        shared=pl.lit(["a", "b"]),
    )
    log.write_parquet(base / "log.parquet")
    versions = [(n, at, n * 10 + version) for n in range(ITEMS) for version, at in enumerate((None, 12, 36))]
    pl.DataFrame(versions, schema=["item", "valid_from", "mark"], orient="row").with_columns(
        pl.col("valid_from") * 3_600_000
    ).write_parquet(base / "items.parquet")
    return log


def pack_versioned_log(
    base: Path, more: Mapping[str, FeatureKind] | None = None
) -> tuple[PackedDataset, pl.DataFrame]:
    """Write the tables into a folder, and pack them, with `more` features. Returns the log, too."""
    log = write_tables(base)
    data = data_settings(
        items="items.parquet",
        request=["number"],
        level="level",
        levels=LEVELS,
        weight="weight",
        scores={"production": {"column": "score"}},
    )
    return pack_log(data, Schema({**SCHEMA.features, **(more or {})}), base, base / "packed"), log

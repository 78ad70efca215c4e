"""A packing that goes on from another equals that part of one packing of all days; what it takes over is told."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.earlier_pack import EarlierPack
from corank.data.packing.pack import pack_log
from corank.features.split import RangeSplit
from tests.support.daily_log import config_of, write_day
from tests.support.four_days import DAY, FROZEN, ITEMS, LISTED, LIVE, schema_of, settings_of, written

CLIPPED = {"age", "exact_age", "dear", "candidates", "born", "hour", "price"}
CLIPPED |= {"brand_since", "since", "cart_since", "viewed_since", "carted_since"}
"""Features that learn the range of training values, which a later packing takes over."""
FEATURES = {name: f for name, f in (FROZEN | LIVE | LISTED).items() if name not in CLIPPED}
SECOND = RangeSplit.model_validate({"train": "1970-01-03..1970-01-04", "valid": "1970-01-04.."})


def pack(
    folder: Path, out: str, split: RangeSplit, features: dict[str, Any], earlier: PackedDataset | None = None
) -> PackedDataset:
    taken = None if earlier is None else EarlierPack.of(earlier)
    data, schema = settings_of(features, split), schema_of(features)
    return pack_log(data, schema, folder, folder / out, earlier=taken)


def shard_bytes(packed: PackedDataset) -> dict[str, bytes]:
    """The files of shards, but for where in `events` their histories begin."""
    return {
        str(path.relative_to(packed.folder)): path.read_bytes()
        for split in packed.splits
        for path in (packed.folder / split).rglob("*")
        if path.is_file() and not path.match("query/list*.start.npy")
    }


def history_items(packed: PackedDataset) -> list[list[int]]:
    return [
        lists.take(np.array([n])).flat().tolist()
        for shards in packed.splits.values()
        for shard in shards
        for lists in shard.query.lists
        for n in range(len(shard))
    ]


def change_items(folder: Path, items: pl.DataFrame, new: int, since: int) -> None:
    """Write items anew: one is new, and all others have another version, which holds from a time on."""
    latest = items.unique("item", keep="last", maintain_order=True)
    brand = (pl.col("brand") + 1) % 3
    later = latest.with_columns(brand, pl.col("price") + 0.5, valid_from=pl.lit(since, pl.Int64))
    added = latest[:1].with_columns(pl.lit(new, pl.Int64).alias("item"))
    pl.concat([items, later, added]).write_parquet(folder / "items.parquet")


@pytest.mark.parametrize("seed", range(2))
def test_the_shards_are_those_of_one_packing(tmp_path: Path, seed: int) -> None:
    """Items change between the packings: by new versions, or by late ones that are gone in the end.

    Priors by an attribute of items count it as it was known; so none is packed where that becomes another.
    """
    written(tmp_path, seed).write_parquet(tmp_path / "log.parquet")
    items, late = pl.read_parquet(tmp_path / "items.parquet"), bool(seed)
    by_brand = {name for name, f in FEATURES.items() if "brand" in f.get("by", [])}
    features = {name: f for name, f in FEATURES.items() if not (late and name in by_brand)}
    first = RangeSplit.model_validate({"train": "..1970-01-03", "valid": "1970-01-03.."})
    earlier = pack(tmp_path, "first", first, features)
    # events are of ITEMS + 1, too, before the table knows it
    new = ITEMS + (1 if late else 9)
    change_items(tmp_path, items, new, DAY if late else 2 * DAY)
    later = pack(tmp_path, "later", SECOND, features, earlier)
    whole = pack(tmp_path, "whole", SECOND, features)
    assert later.manifest.through == whole.manifest.through
    assert len(shard_bytes(later)) > 40
    assert shard_bytes(later) == shard_bytes(whole)
    assert history_items(later) == history_items(whole)
    # and one from a continued one
    known = items if late else pl.read_parquet(tmp_path / "items.parquet")
    change_items(tmp_path, known, new + 1, 3 * DAY)
    last = RangeSplit.model_validate({"train": "1970-01-04.."})
    assert shard_bytes(pack(tmp_path, "last", last, features, later)) == shard_bytes(
        pack(tmp_path, "last whole", last, features)
    )
    assert later.manifest.continued is not None
    assert later.manifest.continued.fingerprint == earlier.manifest.fingerprint


def test_rows_before_are_needed_no_more(tmp_path: Path) -> None:
    """But for those of priors' last periods that were not over, and of labels that were not mature."""
    log = written(tmp_path, 1)
    log.write_parquet(tmp_path / "log.parquet")
    first = RangeSplit.model_validate({"train": "..1970-01-03", "valid": "1970-01-03.."})
    earlier = pack(tmp_path, "first", first, FEATURES)
    whole = pack(tmp_path, "whole", SECOND, FEATURES)
    log.filter(log["time"] >= settings_of(FEATURES).milliseconds(str(date(1970, 1, 2)))).write_parquet(
        tmp_path / "log.parquet"
    )
    later = pack(tmp_path, "later", SECOND, FEATURES, earlier)
    assert shard_bytes(later) == shard_bytes(whole)
    assert history_items(later) == history_items(whole)
    without = pack(tmp_path, "without", SECOND, FEATURES)
    assert shard_bytes(without) != shard_bytes(whole)


def test_what_begins_anew_is_told(tmp_path: Path) -> None:
    write_day(tmp_path, 0)
    first = corank.pack(config_of(0, tmp_path))["packed"]
    write_day(tmp_path, 1)
    said: list[str] = []
    clicked = {"side": "user", "kind": "ids", "of": "item", "event": "click"}
    changed = config_of(1, tmp_path, user={"side": "user", "kind": "id", "hash": 50}, clicked=clicked)
    second = corank.pack(changed, continue_from=first, report=said.append).packed
    assert f"begin anew, as {first} has no such features: user" in said
    assert f"events 'item.click' begin now: {first} has none of them" in said
    assert set(second.manifest.grown) == {"item", "pair"}
    assert second.encoders.sizes["user"] == 52

"""A packing that goes on from another equals that part of one packing of all days; what it takes over is told."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.core.time import FOREVER, NEVER
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.earlier_pack import EarlierPack
from corank.data.packing.pack import pack_log
from corank.data.packing.state import KEPT, LONGEST, QUARTER, KnownRows
from corank.features.kinds.id import IdFeature
from corank.features.schema import Schema
from corank.features.split import RangeSplit
from tests.support.daily_log import config_of, write_day
from tests.support.four_days import DAY, FROZEN, HOUR, ITEMS, LISTED, LIVE, schema_of, settings_of, written

CLIPPED = {"age", "exact_age", "dear", "candidates", "born", "hour", "price"}
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


def test_features_are_carried_by_name_settings_and_what_they_are_made_of(tmp_path: Path) -> None:
    write_day(tmp_path, 0)
    earlier = EarlierPack.of(corank.pack(config_of(0, tmp_path)).packed)
    features = dict(earlier.manifest.features)
    assert earlier.find_carried(Schema(features)) == set(features)
    grown = features | {"item": IdFeature(side="item", min_count=4, keep_days=9)}
    assert earlier.find_carried(Schema(grown)) == set(features)
    # pairs, priors and histories are of values, not of codes
    hashed = features | {"item": IdFeature(side="item", hash=9)}
    assert earlier.find_carried(Schema(hashed)) == {"user", "pair", "ctr"}
    renamed = {("who" if name == "user" else name): feature for name, feature in features.items()}
    renamed = {"who": IdFeature(side="user", column="user"), **{n: renamed[n] for n in ("item", "ctr")}}
    assert earlier.find_carried(Schema(renamed)) == {"item", "ctr"}


def test_what_begins_anew_is_told(tmp_path: Path) -> None:
    write_day(tmp_path, 0)
    first = corank.pack(config_of(0, tmp_path)).packed
    write_day(tmp_path, 1)
    said: list[str] = []
    clicked = {"side": "user", "kind": "ids", "of": "item", "event": "click"}
    changed = config_of(1, tmp_path, user={"side": "user", "kind": "id", "hash": 50}, clicked=clicked)
    second = corank.pack(changed, continue_from=first.folder, report=said.append).packed
    assert f"begin anew, as {first.folder} has no such features: user" in said
    assert f"events 'item.click' begin now: {first.folder} has none of them" in said
    assert set(second.manifest.grown) == {"item", "pair"}
    assert second.encoders.sizes["user"] == 52


def shards_of(*times: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Requests of three candidates each, in shards of one."""
    return [(np.array([time]), np.array([3])) for time in times]


def test_a_period_is_known_where_a_split_has_all_rows_between() -> None:
    known = KnownRows.count(
        shards_of(HOUR, 2 * HOUR, 9 * HOUR), [(NEVER, 4 * HOUR), (8 * HOUR, FOREVER)], 10 * HOUR
    )
    assert known.between(HOUR, 2 * HOUR) == 3 and known.between(2 * HOUR, 4 * HOUR) == 3
    assert known.between(3 * HOUR, 4 * HOUR) == 0, "no row, and that is known"
    assert known.between(4 * HOUR, 8 * HOUR) is None and known.between(0, HOUR) is None
    assert known.between(2 * HOUR, 6 * HOUR) is None, "a half of it is known"
    assert known.between(HOUR, 4 * HOUR + HOUR // 4) == 6, "nearly all of it is known"


def test_what_an_earlier_packing_counted_stays(tmp_path: Path) -> None:
    """Rows of its holdout come again, and those of the quarter in which its training ended are only a part."""
    earlier = KnownRows.count(shards_of(QUARTER, 2 * QUARTER), [(NEVER, 4 * QUARTER)], 4 * QUARTER)
    later = KnownRows.count(
        shards_of(2 * QUARTER + 9, 5 * QUARTER), [(2 * QUARTER + 5, FOREVER)], 5 * QUARTER
    )
    both = later.after(earlier)
    assert [both.counts.get(n) for n in range(7)] == [None, 3, 3, 0, 0, 3, None]
    (tmp_path / "state").mkdir()
    both.write(tmp_path)
    assert KnownRows.read(tmp_path) == both
    assert KnownRows.read(tmp_path / "older") == KnownRows({})


def test_a_row_of_1970_and_many_days_are_bounded(tmp_path: Path) -> None:
    last = 20_000 * DAY
    known = KnownRows.count(shards_of(0, last), [(NEVER, FOREVER)], last)
    assert len(known.counts) == LONGEST + 1 and known.between(last - DAY, last) == 0
    (tmp_path / "state").mkdir()
    known.write(tmp_path)
    assert len(KnownRows.read(tmp_path).counts) == KEPT

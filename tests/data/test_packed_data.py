"""Packed data on disk: replaced whole or not at all, refused if damaged, a folder for each set of features."""

import subprocess
import sys

import polars as pl
import pytest

from corank.core.artifact import MANIFEST
from corank.core.errors import DataError
from corank.core.locks import LOCK
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import SETS, list_packs
from corank.data.packing.packs import mark_continued, open_features, open_with_features, pack_features
from corank.features.kinds.id import IdFeature
from corank.features.schema import Schema
from tests.support.packing import DAY, FEATURES, LOG, World


def test_packing_again_replaces_and_a_failure_leaves_the_old(world: World) -> None:
    first = world.pack()
    world.log = LOG.with_columns(tab=pl.lit("home"))
    second = world.pack()
    assert second.encoders.sizes["tab"] == 3
    assert first.manifest.fingerprint != second.manifest.fingerprint
    assert first.codes != second.codes
    world.log = LOG.with_columns(item=pl.lit(77))
    with pytest.raises(DataError, match="have no row"):
        world.pack()
    assert PackedDataset.open(world.folder / "packed").encoders.sizes["tab"] == 3
    world.log = LOG
    names = {world.pack().manifest.content, second.manifest.content, MANIFEST}
    assert {path.name for path in (world.folder / "packed").iterdir()} == names


FULL = """
import resource, sys
from pathlib import Path
from corank.core.artifact import MANIFEST
from corank.core.errors import DataError
from corank.core.locks import LOCK
from corank.data.packing.pack import pack_log
from corank.features.kinds.id import IdFeature
from corank.features.schema import Schema
from corank.features.log_schema import DataSettings

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
data = DataSettings.model_validate_json((folder / "data.json").read_text())
try:
    pack_log(data, Schema({"item": IdFeature(side="item", kind="id")}), folder, folder / "packed")
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [600, 40_000])
def test_full_disk_is_told_and_leaves_nothing(world: World, limit: int) -> None:
    rows = 5000
    log = pl.DataFrame({"request": range(rows), "user": 1, "item": 10, "level": "exposed", "click": 1})
    log = log.with_columns(time=pl.int_range(rows) * 3 * DAY // rows)
    log.write_parquet(world.folder / "log.parquet")
    world.items = world.users = None
    (world.folder / "data.json").write_text(world.settings().model_dump_json())
    command = [sys.executable, "-c", FULL, str(world.folder), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{world.folder}: File too large while packing, which takes about " in done.stdout
    assert sorted(path.name for path in world.folder.iterdir()) == ["data.json", "log.parquet"]


def pack(world: World, **changes: IdFeature | None) -> PackedDataset:
    """Pack a world with some of its features changed, or taken away by None."""
    features = {name: feature for name, feature in (world.features | changes).items() if feature is not None}
    schema, root = Schema(features), world.folder / "packed"
    packed = pack_features(world.settings(), schema, world.folder, root)
    assert packed.schema.features == schema.features
    assert open_features(root, world.settings(), schema, world.folder).location == packed.location
    return packed


def test_settings_that_networks_alone_read_share_a_folder(world: World) -> None:
    root = world.folder / "packed"
    before = world.pack().manifest
    wider = IdFeature(side="context", kind="id", dim=5)
    packed = pack(world, tab=wider)
    assert packed.location == root and packed.schema.features["tab"] == wider
    assert packed.encoders.schema is packed.schema
    assert PackedDataset.open(root).manifest == before
    assert list_packs(root) == [root]


def test_each_set_of_features_has_a_folder(world: World) -> None:
    root = world.folder / "packed"
    world.pack()
    fewer, other = pack(world, tab=None), pack(world, tab=IdFeature(side="context", kind="id", min_count=2))
    assert set(list_packs(root)) == {root, fewer.location, other.location}
    assert all(path.parent == root / SETS for path in list_packs(root)[1:])
    stats = [(folder / MANIFEST).stat() for folder in list_packs(root)]
    assert pack(world).location == root and pack(world, tab=None).location == fewer.location
    assert [(folder / MANIFEST).stat() for folder in list_packs(root)] == stats


def test_other_files_are_named_and_packed_anew(world: World) -> None:
    root = world.folder / "packed"
    world.pack()
    pack(world, tab=None)
    path = world.folder / "items.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    with pytest.raises(DataError, match=r"run `corank pack` again \(data\.items: .* or changed since\)"):
        open_features(root, world.settings(), Schema(world.features), world.folder)
    assert pack(world).location == root
    assert list_packs(root) == [root]
    fewer = pack(world, tab=None)
    (fewer.folder / "users.arrow").unlink()
    assert pack(world, tab=None).location == fewer.location, "a damaged set is packed anew"


def test_a_set_of_a_log_that_is_packed_again_goes_and_what_was_opened_of_it_is_readable(world: World) -> None:
    root = world.folder / "packed"
    world.pack()
    read = pack(world, tab=None)
    tagged = Schema({"tags": FEATURES["tags"]})
    world.features = {name: feature for name, feature in FEATURES.items() if name != "tags"}
    world.log = LOG.with_columns(match=0.5)
    world.pack()
    assert read.encoder_files and list_packs(root) == [root]
    with pytest.raises(DataError, match=r"packed: lacks features of the run, or has .* other settings: tags"):
        open_with_features(root, tagged)


def test_a_set_is_not_packed_where_nothing_can_be_written(world: World) -> None:
    world.pack()
    (world.folder / "packed" / LOCK).mkdir()
    with pytest.raises(DataError, match=r"packed: cannot be written: .* what was there before is untouched"):
        pack(world, tab=None)


def test_a_set_that_others_continue_is_not_replaced(world: World) -> None:
    world.pack()
    mark_continued(str(pack(world, tab=None).location))
    world.log = LOG.with_columns(tab=pl.lit("home"))
    world.log.write_parquet(world.folder / "log.parquet")
    with pytest.raises(DataError, match="other packed data go on from these"):
        pack(world)

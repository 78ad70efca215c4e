"""Packed data on disk: replaced whole or not at all, and refused if damaged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import DataError
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import fingerprint
from corank.features.schema import Schema
from tests.support.packing import DAY, FEATURES, LOG, World, only


def test_folder_of_something_else_is_not_replaced(world: World) -> None:
    (world.folder / "packed").mkdir()
    (world.folder / "packed" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="exists, but is no packed data"):
        world.pack()
    assert (world.folder / "packed" / "thesis.txt").exists()


def test_packing_again_replaces_and_a_failure_leaves_the_old(world: World) -> None:
    first = world.pack()
    world.log = LOG.with_columns(tab=pl.lit("home"))
    second = world.pack()
    assert second.encoders.sizes["tab"] == 3
    assert first.manifest.fingerprint != second.manifest.fingerprint
    world.log = LOG.with_columns(item=pl.lit(77))
    with pytest.raises(DataError, match="have no row"):
        world.pack()
    assert PackedDataset.open(world.folder / "packed").encoders.sizes["tab"] == 3


def test_leftovers_of_a_killed_packing_are_removed(world: World) -> None:
    (world.folder / ".partial-packed-0" / "train").mkdir(parents=True)
    world.pack()
    assert not (world.folder / ".partial-packed-0").exists()


FULL = """
import resource, sys
from pathlib import Path
from corank.core.errors import DataError
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


@pytest.mark.parametrize("limit", [600, 10_000, 40_000])
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


def test_fingerprint_is_of_settings_and_files(world: World) -> None:
    packed = world.pack()
    data, schema = world.settings(), Schema(world.features)
    mark = fingerprint(data, schema, world.folder)
    assert packed.manifest.fingerprint == mark
    os.utime(world.folder / "items.parquet", ns=(1, 1))
    assert fingerprint(data, schema, world.folder) != mark
    fewer = Schema({"item": FEATURES["item"]})
    assert fingerprint(data, fewer, world.folder) != fingerprint(data, schema, world.folder)
    with pytest.raises(DataError, match="packed from another config or other files: run `corank pack` again"):
        PackedDataset.open(packed.folder, expect=fingerprint(data, schema, world.folder))


def test_no_packed_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no packed data here; run `corank pack`"):
        PackedDataset.open(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 0}'])
def test_damaged_manifest_is_refused(world: World, content: str) -> None:
    manifest = world.pack().folder / "manifest.json"
    manifest.write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json: (damaged|packed in format)"):
        PackedDataset.open(manifest.parent)


def test_array_of_another_size_is_refused(world: World) -> None:
    packed = world.pack()
    path = only(packed, "train").folder / "item.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"item\.npy: expected \d+ bytes, found \d+: run `corank pack` again"):
        PackedDataset.open(packed.folder)
    path.unlink()
    with pytest.raises(DataError, match=r"item\.npy: expected \d+ bytes, found no file"):
        PackedDataset.open(packed.folder)


def test_manifest_tells_what_is_packed(world: World) -> None:
    manifest = json.loads((world.pack().folder / "manifest.json").read_text())
    assert manifest["splits"]["train"] == [{"name": "00000", "requests": 2, "candidates": 5}]
    assert manifest["levels"] == {"retrieved": 1, "preranked": 1, "ranked": 1, "exposed": 5}
    assert manifest["data"]["labels"]["click"]["column"] == "click"
    assert "spill" not in str(manifest["files"])

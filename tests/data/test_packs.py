"""A folder of packed data for each fingerprint of packing's inputs, and packed data seen with some features."""

import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from corank.core.errors import ConfigError, DataError
from corank.core.ragged import Ragged, Vectors
from corank.core.settings import validate
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import MANIFEST
from corank.data.packing.pack import pack_log
from corank.data.packing.packs import SETS, list_packs, open_features, pack_features
from corank.features.encoders import split_rows
from corank.features.encoding import Encoded
from corank.features.kinds.id import IdFeature
from corank.features.schema import PLACEMENTS, Schema
from corank.training.config.config import Config
from corank.training.config.config_file import plain, without_features
from tests.support.packing import World
from tests.support.random_config import world_config
from tests.support.random_tables import write_tables
from tests.support.random_worlds import Drawn, drawn_worlds


def pack(world: World, **changes: IdFeature | None) -> PackedDataset:
    """Pack a world with some of its features changed, or taken away by None."""
    features = {name: feature for name, feature in (world.features | changes).items() if feature is not None}
    schema, root = Schema(features), world.folder / "packed"
    packed = pack_features(world.settings(), schema, world.folder, root)
    assert packed.schema.features == schema.features
    assert open_features(root, world.settings(), schema, world.folder).folder == packed.folder
    return packed


def test_settings_that_networks_alone_read_share_a_folder(world: World) -> None:
    world.pack()
    before = (world.folder / "packed" / MANIFEST).stat()
    wider = IdFeature(side="context", kind="id", dim=5)
    packed = pack(world, tab=wider)
    assert packed.folder == world.folder / "packed" and packed.schema.features["tab"] == wider
    assert packed.encoders.schema is packed.schema
    assert (world.folder / "packed" / MANIFEST).stat() == before
    assert list_packs(packed.folder) == [packed.folder]


def test_each_set_of_features_has_a_folder(world: World) -> None:
    root = world.pack().folder
    fewer, other = pack(world, tab=None), pack(world, tab=IdFeature(side="context", kind="id", min_count=2))
    assert sorted(list_packs(root)) == sorted([root, fewer.folder, other.folder])
    assert {fewer.folder.parent, other.folder.parent} == {root / SETS}
    stats = [(folder / MANIFEST).stat() for folder in list_packs(root)]
    assert pack(world).folder == root and pack(world, tab=None).folder == fewer.folder
    assert [(folder / MANIFEST).stat() for folder in list_packs(root)] == stats


def test_other_files_are_named_and_packed_anew(world: World) -> None:
    root = world.pack().folder
    pack(world, tab=None)
    path = world.folder / "items.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    with pytest.raises(
        DataError, match=r"run `corank pack` again \(data\.items: other files, or changed since\)"
    ):
        open_features(root, world.settings(), Schema(world.features), world.folder)
    assert pack(world).folder == root
    assert list_packs(root) == [root]
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"data\.items"):
        open_features(root, world.settings(), Schema(world.features), world.folder)


def test_a_damaged_set_is_packed_anew(world: World) -> None:
    world.pack()
    folder = pack(world, tab=None).folder
    (folder / "users.arrow").unlink()
    assert pack(world, tab=None).folder == folder


def require_equal(found: Encoded, expected: Encoded) -> None:
    """Fail unless two encoded features are the same."""
    if isinstance(found, Ragged) and isinstance(expected, Ragged):
        assert np.array_equal(found.length, expected.length) and np.array_equal(found.flat(), expected.flat())
    elif isinstance(found, Vectors) and isinstance(expected, Vectors):
        rows = np.arange(len(found.row))
        pairs = zip(found.take(rows).compact().values, expected.take(rows).compact().values, strict=True)
        assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)
    else:
        assert isinstance(found, np.ndarray) and isinstance(expected, np.ndarray)
        assert np.array_equal(found, expected)


def draw_fewer(value: dict[str, Any], draw: random.Random) -> Config | None:
    """Draw a valid config of fewer features; None after ten that are refused."""
    for _ in range(10):
        gone = draw.sample(list(value["features"]), k=draw.choice([1, 2, 3]))
        with suppress(ConfigError):
            fewer = without_features(value, [name for name in gone if name != "item_id"])
            return validate(Config, fewer, "fewer")
    return None


@pytest.mark.thorough
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(drawn=drawn_worlds, seed=st.integers(0, 2**16))
def test_some_features_are_seen_as_if_they_were_packed_alone(
    drawn: Drawn, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base: Path = tmp_path_factory.mktemp("some")
    write_tables(base, drawn, np.random.default_rng(drawn["seed"]))
    value = plain(Config.model_validate(world_config(drawn)))
    whole = validate(Config, value, "whole")
    few = draw_fewer(value, random.Random(seed)) or whole
    seen = pack_log(whole.data, whole.declared, base, base / "whole").with_features(few.declared)
    alone = pack_log(few.data, few.declared, base, base / "few")
    assert seen.schema.features == seen.manifest.features == alone.schema.features
    assert seen.encoders.fitted.keys() == alone.encoders.fitted.keys()
    for placement in PLACEMENTS:
        pairs = [(seen.items, alone.items)]
        if placement != "item":
            pairs = [
                (getattr(ours, placement), getattr(theirs, placement))
                for split, shards in seen.splits.items()
                for ours, theirs in zip(shards, alone.splits[split], strict=True)
            ]
        for ours, theirs in pairs:
            features = split_rows(seen.schema.row_features(placement), ours)
            for name, expected in split_rows(alone.schema.row_features(placement), theirs).items():
                require_equal(features[name], expected)

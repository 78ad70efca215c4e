"""Packed data of other features: the files that packing from the tables would write."""

import filecmp
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.data.packing.pack import pack_log
from corank.data.reuse.feature_sets import open_features, pack_features
from corank.training.config import Config
from corank.training.config_file import plain
from corank.training.feature_changes import without_features
from tests.support.random_config import world_config
from tests.support.random_tables import write_tables
from tests.support.random_worlds import Drawn, drawn_worlds


def require_equal(found: Path, expected: Path) -> None:
    """Fail unless two folders hold the same files, but for other sets."""

    def files(folder: Path) -> dict[str, Path]:
        paths = (
            path
            for path in folder.rglob("*")
            if path.is_file() and "sets" not in path.relative_to(folder).parts
        )
        return {str(path.relative_to(folder)): path for path in paths}

    ours, theirs = files(found), files(expected)
    assert ours.keys() == theirs.keys()
    assert [n for n in ours if not filecmp.cmp(ours[n], theirs[n], shallow=False)] == []


def change_some(value: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Remove some features of a config, and change settings of some others."""
    gone = draw.sample(list(value["features"]), k=draw.choice([0, 0, 1, 2]))
    value = without_features(value, [name for name in gone if name != "item"])
    changes = {
        "dim": 5,
        "min_count": 3,
        "smoothing": 3.0,
        "every": "2h",
        "last": 2,
        "buckets": 4,
        "project": 1,
    }
    features = dict(value["features"])
    for name in draw.sample(list(features), k=min(len(features), draw.choice([0, 1, 2]))):
        known = [key for key in changes if features[name].get(key) is not None]
        if known:
            key = draw.choice(known)
            features[name] = features[name] | {key: changes[key]}
    return value | {"features": features}


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(drawn=drawn_worlds, seed=st.integers(0, 2**16))
def test_every_set_is_what_packing_its_tables_gives(
    drawn: Drawn, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base, draw = tmp_path_factory.mktemp("sets"), random.Random(seed)
    write_tables(base, drawn, np.random.default_rng(drawn["seed"]))
    first = Config.model_validate(world_config(drawn))
    pack_features(first.data, first.declared, base, base / "packed")
    for n in range(3):
        try:
            schema = validate(Config, change_some(plain(first), draw), "changed").declared
        except ConfigError:
            continue
        packed = pack_features(first.data, schema, base, base / "packed")
        whole = pack_log(first.data, schema, base, base / f"whole{n}")
        require_equal(packed.folder, whole.folder)
        assert packed.codes == whole.codes
        assert open_features(base / "packed", first.data, schema, base).folder == packed.folder

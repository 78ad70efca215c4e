"""Packed data of other features: the files that packing from the tables would write."""

import filecmp
import random
import re
from contextlib import suppress
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
from tests.support.random_worlds import LISTED, Drawn, drawn_worlds


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
    gone = draw.sample(list(value["features"]), k=draw.choice([0, 1, 2, 3]))
    value = without_features(value, [name for name in gone if name != "item_id"])
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
        if features[name]["kind"] == "vector":  # `dim` is that of the data
            known.remove("dim")
        if known:
            key = draw.choice(known)
            features[name] = features[name] | {key: changes[key]}
    return value | {"features": features}


def draw_config(value: dict[str, Any], draw: random.Random) -> Config:
    """Draw a valid config of `change_some`; after ten that are refused, `value` itself."""
    for _ in range(10):
        with suppress(ConfigError):
            return validate(Config, change_some(value, draw), "changed")
    return validate(Config, value, "unchanged")


def require_set(base: Path, config: Config, name: str) -> list[str]:
    """Pack a config beside others, and fail unless that gives what packing its tables gives. Returns what is said."""
    data, schema, said = config.data, config.declared, list[str]()
    packed = pack_features(data, schema, base, base / "packed", said.append)
    whole = pack_log(data, schema, base, base / name)
    require_equal(packed.folder, whole.folder)
    assert packed.codes == whole.codes
    assert open_features(base / "packed", data, schema, base).folder == packed.folder
    return said


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(drawn=drawn_worlds, seed=st.integers(0, 2**16))
def test_every_set_is_what_packing_its_tables_gives(
    drawn: Drawn, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base, draw = tmp_path_factory.mktemp("sets"), random.Random(seed)
    write_tables(base, drawn, np.random.default_rng(drawn["seed"]))
    value = plain(Config.model_validate(world_config(drawn)))
    for n in range(3):  # each of the whole config, so that what one has not another adds
        require_set(base, draw_config(value, draw), f"whole{n}")


REMOVED = {
    "histories": ["history_0", "item_0", "cross_0", "born"],
    "derived": [f"derived_{n}" for n in range(0, 60, 2)],
    "columns": ["item_1", "item_3", "user_0", "context_0", "cross_1", "age_by_day", "candidates"],
}


@pytest.mark.parametrize("part", REMOVED)
def test_features_that_are_added_are_packed_alone(tmp_path: Path, part: str) -> None:
    write_tables(tmp_path, LISTED, np.random.default_rng(LISTED["seed"]))
    value = plain(Config.model_validate(world_config(LISTED)))
    few = without_features(value, [name for name in REMOVED[part] if name in value["features"]])
    require_set(tmp_path, validate(Config, few, "few"), "few")
    said = "\n".join(require_set(tmp_path, validate(Config, value, "all"), "all"))
    line = re.search(r"^kept (\d+) of (\d+) features, packing (\d+): (.*)$", said, re.MULTILINE)
    assert line is not None
    kept, count, packed = (int(line[n]) for n in (1, 2, 3))
    assert kept + packed == count == len(value["features"])
    assert packed < count * 2 // 3
    assert value["features"].keys() - few["features"].keys() <= set(line[4].split(", "))

"""Grids of values for keys of a config → arms, which are checked before anything is trained."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from corank.analysis.trials.arm import BASE, Arm
from corank.core.errors import ConfigError
from corank.core.formatting import shorten
from corank.features.log_schema import DataSettings
from corank.training.config import Config
from corank.training.config_file import read
from corank.training.plain_config.yaml_reader import read_yaml

MOST_ARMS = 200
NO_EFFECT = {
    r"name|packed|plugins": "it changes nothing that is trained",
    r"data(\..*)?": "it changes the rows that arms are compared on",
    r"train\.seed": "seeds are those of --seeds",
    r"train\.(checkpoint_every|tables)": "it changes nothing that is learnt",
    r"retrieval(\..*)?|stages\.[0-9]+\.(deadline_ms|min_score)": "it changes the online funnel alone",
    r"(stages|teachers)\.[0-9]+\.name": "figures are told apart by the names of stages",
}
"""Keys that no trial can compare → the reason."""

Grid = Mapping[str, Sequence[Any]]
"""Key of the config, such as `train.rank.lr` → the values to try."""


@dataclass(frozen=True)
class GridArms:
    """The arms of a grid, the config as written first."""

    arms: list[Arm]
    changes: dict[str, dict[str, Any]]
    """Name of an arm → key → value."""
    same: dict[str, str]
    """A point of the grid that comes out the same as an arm → that arm."""

    def with_data(self, data: DataSettings) -> "GridArms":
        """The arms on other `data`, which no grid changes."""
        arms = [Arm(arm.name, arm.config.model_copy(update={"data": data})) for arm in self.arms]
        return replace(self, arms=arms)


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Read `KEY=VALUE,VALUE` grids, whose values are YAML. Raises ConfigError."""
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"--grid {shorten(text)}: expected a.b=value,value")
        if key in grid:
            raise ConfigError(f"--grid {key}: given twice; write all its values in one --grid")
        try:
            grid[key] = read_yaml(f"[{values}]", f"--grid {shorten(text)}")
        except yaml.YAMLError:
            raise ConfigError(
                f"--grid {shorten(text)}: '{shorten(values)}' are no YAML values with commas between them"
            ) from None
    return grid


def refuse_no_effect(key: str, option: str) -> None:
    """Raise ConfigError if a key cannot make trials differ."""
    for pattern, why in NO_EFFECT.items():
        if re.fullmatch(pattern, key):
            raise ConfigError(f"{option} {key}: {why}; a search cannot compare its values")


def read_changed(
    config_file: Path, overrides: Sequence[str], changes: Mapping[str, Any], option: str
) -> Config:
    """The config with some keys set. Raises ConfigError, which names the option that asked for them.

    Args:
        config_file: the YAML file.
        overrides: `a.b=value` changes that all arms share.
        changes: key → plain value.
        option: of the command line, such as `--grid`.
    """
    named = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    try:
        return read(config_file, [*overrides, *named])
    except ConfigError as error:
        read(config_file, overrides)  # reports a fault of the config itself as such
        said = " ".join(f"{option} {text}" for text in named)
        raise ConfigError(f"{shorten(said, 200)}: {str(error).replace('--set ', '')}") from None


def build_grid(config_file: Path, overrides: Sequence[str], grid: Grid) -> GridArms:
    """The arms of a grid: the product of its keys' values. Raises ConfigError."""
    if not grid:
        raise ConfigError(
            "--grid: none given; write --grid KEY=VALUE,VALUE, such as --grid train.rank.lr=0.001,0.003"
        )
    for key, values in grid.items():
        _check_values(key, values)
    points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
    if len(points) > MOST_ARMS:
        raise ConfigError(
            f"--grid: {len(points):,} arms, more than {MOST_ARMS}; `corank tune` searches larger spaces"
        )
    base = Arm(BASE, read(config_file, overrides))
    arms, same = {base.identity: base}, dict[str, str]()
    changes: dict[str, dict[str, Any]] = {BASE: {}}
    for point in points:
        name = ", ".join(f"{key}={json.dumps(value)}" for key, value in point.items())
        arm = Arm(name, read_changed(config_file, overrides, point, "--grid"))
        kept_arm = arms.setdefault(arm.identity, arm)
        if kept_arm is arm:
            changes[name] = point
        else:
            same[name] = kept_arm.name
    _refuse_idle(grid, points, arms)
    return GridArms(list(arms.values()), changes, same)


def _check_values(key: str, values: Sequence[Any]) -> None:
    """Raise ConfigError unless a key may be compared and has distinct values."""
    refuse_no_effect(key, "--grid")
    if not values:
        raise ConfigError(f"--grid {key}: no values; write {key}=VALUE,VALUE")
    texts = [json.dumps(value) for value in values]
    for text in texts:
        if texts.count(text) > 1:
            raise ConfigError(f"--grid {key}: {text} is given twice; each value once")


def _refuse_idle(grid: Grid, points: Sequence[Mapping[str, Any]], arms: Mapping[str, Arm]) -> None:
    """Raise ConfigError if no value of the grid makes a config that differs from the one as written."""
    if len(arms) == 1:
        raise ConfigError(
            f"--grid {', '.join(grid)}: all {len(points)} arms are the config as written; give other values"
        )

"""Entries of the cascade benchmark: what each changes in the config of a world, read from YAML files."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from corank.analysis.experiments.arms_file import replace_names
from corank.core.errors import ConfigError
from corank.core.settings import Settings, describe_unknown, validate
from corank.models.settings.stage import STAGE_MODELS
from corank.training.config.yaml_values import read_yaml_file

Plain = dict[str, Any]
PROVIDED = Path(__file__).parent / "entries"
STAGES = ("prerank", "rank")
ROLE = ("name", "keep", "cuts", "value")
"""Keys of a stage that belong to the world."""


class CascadeEntry(Settings):
    """What an entry changes in the config of a world."""

    about: str = Field(min_length=1)
    """What it is, for readers of a result."""
    stages: dict[str, Plain] = {}
    """By `prerank` or `rank`: keys to set. Of another `model` the stage keeps those of its keys that this model has."""
    losses: list[Plain] | None = None
    """In place of the clicks of both stages."""
    more_losses: list[Plain] = []
    """In addition to the clicks of both stages."""
    teachers: list[Plain] = []
    tree_teachers: list[Plain] = []
    train: Plain = {}
    """`mode`, if anything: rates, epochs, batches and seeds are the same for all."""

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        """Refuse entries that are not on equal terms."""
        if self.losses is not None and self.more_losses:
            raise ValueError("losses stand in place of the clicks, more_losses beside them; give one of both")
        for name, keys in self.stages.items():
            if name not in STAGES:
                raise ValueError(f"stages: {describe_unknown(name, STAGES, 'stage')}")
            if conflicts := [key for key in ROLE if key in keys]:
                raise ValueError(f"stages.{name}.{conflicts[0]}: the world says it, for all entries; drop it")
        if strange := [key for key in self.train if key != "mode"]:
            raise ValueError(
                f"train.{strange[0]}: it is the same for all entries, or no key; one may set mode"
            )
        return self

    def changed(self, world: Plain, names: Mapping[str, Any]) -> Plain:
        """The config of a world as the entry changes it.

        Args:
            world: plain values, with the clicks of both stages as losses.
            names: values of `$`-names: `corank.analysis.experiments.arms_file.names_of`.
        """
        entry: Plain = replace_names(self.model_dump(), names)
        stages = [_changed_stage(stage, entry["stages"].get(stage["name"], {})) for stage in world["stages"]]
        losses = world["losses"] + entry["more_losses"] if entry["losses"] is None else entry["losses"]
        taught = {key: entry[key] for key in ("teachers", "tree_teachers")}
        return world | taught | {"stages": stages, "losses": losses, "train": world["train"] | entry["train"]}


def read_entries(paths: Iterable[Path]) -> dict[str, CascadeEntry]:
    """Read the entries that the benchmark comes with, and those of further files.

    Raises ConfigError, which names file, entry and key.
    """
    entries: dict[str, CascadeEntry] = {}
    for path in [*sorted(PROVIDED.glob("*.yaml")), *paths]:
        values = read_yaml_file(path)
        if not isinstance(values, dict) or not values:
            raise ConfigError(f"{path}: expected entries by name, such as `my_loss: {{about: …}}`")
        for name, value in values.items():
            if not re.fullmatch("[a-z][a-z0-9_]*", name):
                raise ConfigError(
                    f"{path}: an entry's name is lower-case letters, digits and _; received {name!r}"
                )
            if name in entries:
                raise ConfigError(f"{path}: there is an entry '{name}' already; take another name")
            entries[name] = validate(CascadeEntry, value, f"{path}: {name}")
    return entries


def _changed_stage(stage: Plain, change: Plain) -> Plain:
    """A stage with keys set; of another model it keeps the keys that this model has. Raises PluginError."""
    if change.get("model", stage["model"]) != stage["model"]:
        known = STAGE_MODELS.find(change["model"]).model_fields
        stage = {key: option for key, option in stage.items() if key in known}
    return stage | change

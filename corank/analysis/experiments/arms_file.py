"""A file of arms in YAML → the arms of a config.

    title: What makes the stages consistent?
    arms:
      neither: {change: {distillation: false, unexposed: false}}
      a narrow ranker: {set: {"stages.1.hidden": [64]}}

An arm is the config with `losses` in place of its losses and `more_losses` beside them, then with the named changes of
`change` in their order (`corank.analysis.experiments.arms`), then with the keys of `set`. `$`-names are replaced by
what they mean in the config: see `names_of`.
"""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from corank.analysis.experiments.arms import BASE, CHANGES, Arm, ArmSet, with_losses
from corank.core.errors import ConfigError, PluginError
from corank.core.settings import Settings, describe_unknown, validate
from corank.training.config.config import Config
from corank.training.config.config_file import Plain, plain, with_keys
from corank.training.config.yaml_values import read_yaml_file

_PLACES = (Path(__file__).parent / "study", Path(__file__).parents[3] / "examples" / "study")
STUDY = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
"""The files that corank comes with: in a wheel next to this module, in a checkout in examples/."""


class ArmChanges(Settings):
    """What an arm changes in a config."""

    losses: list[Plain] | None = None
    """In place of the config's losses."""
    more_losses: list[Plain] = []
    """In addition to them."""
    change: list[tuple[str, list[Any]]] = []
    """Names of changes with their arguments, in the order in which they are made."""
    set: Plain = {}
    """Key, such as `train.rank.lr` → value; `features.NAME: null` removes a feature."""

    @field_validator("change", mode="before")
    @classmethod
    def _read_change(cls, value: Any) -> Any:
        """Read a name, a mapping of names to arguments, or a list of these."""
        calls: list[tuple[str, list[Any]]] = []
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, str | dict):
                raise ValueError(f"expected a name, or names with arguments; received {part!r}")
            for name, argument in part.items() if isinstance(part, dict) else [(part, [])]:
                if name not in CHANGES:
                    raise ValueError(describe_unknown(name, CHANGES, "change"))
                calls.append((name, argument if isinstance(argument, list) else [argument]))
                try:
                    inspect.signature(CHANGES[name]).bind({}, *calls[-1][1])
                except TypeError as error:
                    raise ValueError(f"{name}: {error}") from None
        return calls

    @model_validator(mode="after")
    def _require_change(self) -> Self:
        if not (self.set or self.more_losses or self.change) and self.losses is None:
            raise ValueError("changes nothing; give set, losses, more_losses or change")
        return self

    def apply(self, config: Config, names: Mapping[str, Any], source: str) -> Config:
        """The changed config. Raises ConfigError, which begins with `source`."""
        changes, value = replace_names(self.model_dump(), names), plain(config)
        losses = [*(value["losses"] if self.losses is None else changes["losses"]), *changes["more_losses"]]
        try:
            if losses != value["losses"]:
                value = with_losses(value, losses)
            for name, arguments in changes["change"]:
                value = CHANGES[name](value, *arguments)
        except ConfigError:
            raise
        except (PluginError, ValueError, KeyError, IndexError, TypeError) as error:
            validate(Config, value | {"losses": losses}, source)  # names the key of a loss
            raise ConfigError(f"{source}: does not fit this config: {error}") from None
        return with_keys(value, changes["set"], source, Path())


class ArmsFile(Settings):
    """A file of arms."""

    title: str = ""
    """What they answer, above the page."""
    optional: bool = False
    """Whether an arm that the config does not allow, or that equals another, is left out with a note; otherwise it is
    an error."""
    arms: dict[str, ArmChanges] = Field(min_length=1)

    def build(self, config: Config, source: str) -> ArmSet:
        """The arms of a config. Raises ConfigError, which begins with `source`, such as the file."""
        names, arms, refused = names_of(config), dict[str, Arm](), dict[str, str]()
        for key, changes in self.arms.items():
            name = key
            try:
                name = str(replace_names(key, names))
                built = changes.apply(config, names, name)
            except ConfigError as error:
                refused[name] = str(error).removeprefix(f"{name}: ")
                if not self.optional:
                    raise ConfigError(f"{source}: arms.{key}: {refused[name]}") from None
                continue
            if name in (BASE, *arms):
                raise ConfigError(f"{source}: arms.{key}: there is an arm “{name}” already; rename it")
            arms[name] = Arm(name, built, changes.model_dump(mode="json", exclude_defaults=True))
        arm_set = ArmSet.of(config, list(arms.values()), refused, self.title)
        if arm_set.same and not self.optional:
            name, other = next(iter(arm_set.same.items()))
            raise ConfigError(f"{source}: arms.{name}: comes out the same as “{other}”; drop one of the two")
        if len(arm_set.arms) == 1:
            raise ConfigError(f"{source}: no arm is left for this config: {' '.join(arm_set.notes)}")
        return arm_set


def find_arms(named: Path) -> Path:
    """The file of arms: a path, or the name of one that corank comes with, such as `consistency`."""
    provided = STUDY / f"{named}.yaml"
    return provided if not named.exists() and provided.parent == STUDY and provided.is_file() else named


def read_arms(path: Path) -> ArmsFile:
    """Read a file of arms. Raises ConfigError, which names the file and the key."""
    if not path.exists() and not path.suffix:
        names = sorted(file.stem for file in STUDY.glob("*.yaml"))
        raise ConfigError(f"{path}: no such file; corank comes with {', '.join(names)}")
    value = read_yaml_file(path)
    if not isinstance(value, dict) or not value.get("arms", True):
        example = "arms: {narrow: {set: {stages.1.hidden: [64]}}}"
        raise ConfigError(f"{path}: arms: none; give one or more, such as {example}")
    return validate(ArmsFile, value, str(path))


def names_of(config: Config) -> dict[str, Any]:
    """The meaning of `$`-names in a config; without levels, the catalogue is what was not shown."""
    levels, first, last = config.data.levels, config.stages[0], config.stages[-1]
    levelled = config.data.level is not None and len(levels) > 1
    cut = max((levels.index(level) for level in first.cuts), default=-1)
    warm_ups = (loss["warm_up"] for loss in plain(config)["losses"] if loss["kind"] == "distill")
    return {
        "$first": first.name,
        "$last": last.name,
        "$first_model": first.model,
        "$last_model": last.model,
        "$label": first.main,
        "$warm_up": max(warm_ups, default=0),
        "$levels": levels if levelled else ["catalogue", levels[-1]],
        "$cut": first.cuts if levelled and first.cuts else ["catalogue"],
        "$passed": levels[cut + 1 :] if levelled else levels[-1:],
        "$unexposed": levels[:-1] if levelled else ["catalogue"],
        "$exposed": levels[-1:],
        "$shown": last.keep,
    }


def replace_names(value: Any, names: Mapping[str, Any]) -> Any:
    """Replace the `$`-names in plain values, and within their keys and texts. Raises ConfigError for an unknown one."""

    def meaning(name: str) -> Any:
        if name not in names:
            raise ConfigError(describe_unknown(name, names, "$-name"))
        return names[name]

    match value:
        case dict():
            return {replace_names(key, names): replace_names(part, names) for key, part in value.items()}
        case list() | tuple():
            return [replace_names(part, names) for part in value]
        case str() if re.fullmatch(r"\$\w+", value):
            return meaning(value)
        case str():
            return re.sub(r"\$[a-z_]+", lambda match: str(meaning(match[0])), value)
    return value

"""A file of arms: a question of a study, or arms of a user, in YAML → the arms of a config.

    title: What makes the stages consistent?
    metrics: [agree_recall]
    arms:
      neither: {change: {distillation: false, unexposed: false}}
      a narrow ranker: {set: {"stages.1.hidden": [64]}}

An arm is the config with `losses` in place of its losses and `more_losses` beside them, then with the named changes of
`change` in their order (`corank.analysis.experiments.arms`), then with the keys of `set`. `$`-names are replaced by
what they mean in the config: see `names_of`.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from corank.analysis.experiments.arms import BASE, CHANGES, Arm, ArmSet, NoFeaturesError, with_losses
from corank.core.errors import ConfigError, PluginError
from corank.core.settings import Settings, describe_unknown, validate
from corank.training.config.config import Config
from corank.training.config.config_file import Plain, plain, with_keys
from corank.training.config.yaml_values import read_yaml_file

PROVIDED = Path(__file__).parent / "questions"
QUESTIONS = tuple(sorted(int(path.stem) for path in PROVIDED.glob("*.yaml")))
"""Numbers of the questions that corank comes with."""


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


class Question(Settings):
    """A question, and the arms that answer it."""

    title: str = Field("Which arm is better?", min_length=1)
    metrics: list[str] = []
    """Figures of a study that decide, in addition to the end-to-end figure."""
    finding: Literal["differences", "correlations", "quotas", "ranker_first"] = "differences"
    """What a study answers by: differences of arms to the config as written, rank correlations of figures over all
    checkpoints, recall by quota, or the ranker's scores in both stages. The last two need no arms."""
    arms_of: list[str] = []
    """Files, next to this one, whose arms it has, too."""
    arms: dict[str, ArmChanges] = {}

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        needed, given = self.finding in ("differences", "correlations"), bool(self.arms or self.arms_of)
        if needed and not given:
            raise ValueError("arms: none; give one or more, such as `narrow: {set: {stages.1.hidden: [64]}}`")
        if given and not needed:
            alone = f"a finding of {self.finding} is of the config as written alone"
            raise ValueError(f"arms: {alone}; drop them")
        return self

    def build(self, config: Config, source: str, strict: bool = False) -> ArmSet:
        """The arms of a config.

        Args:
            config: as written.
            source: what errors begin with, such as the file.
            strict: whether an arm that the config does not allow, or that equals another, is an error.

        Raises ConfigError.
        """
        names, arms, refused = names_of(config), dict[str, Arm](), dict[str, str]()
        for key, changes in self.arms.items():
            name = key
            try:
                name = str(replace_names(key, names))
                built = changes.apply(config, names, name)
            except ConfigError as error:
                if strict:
                    why = str(error).removeprefix(f"{name}: ")
                    raise ConfigError(f"{source}: arms.{key}: {why}") from None
                if not isinstance(error, NoFeaturesError):
                    refused[name] = str(error)
                continue
            if name in (BASE, *arms):
                raise ConfigError(f"{source}: arms.{key}: there is an arm “{name}” already; rename it")
            arms[name] = Arm(name, built, changes.model_dump(mode="json", exclude_defaults=True))
        arm_set = ArmSet.of(config, list(arms.values()), refused)
        if strict and arm_set.same:
            name, other = next(iter(arm_set.same.items()))
            raise ConfigError(f"{source}: arms.{name}: comes out the same as “{other}”; drop one of the two")
        return arm_set


def read_question(path: Path, readers: tuple[Path, ...] = ()) -> Question:
    """Read a file of arms. Raises ConfigError, which names the file and the key.

    Args:
        path: the file.
        readers: files whose `arms_of` led here, none of which may be named again.
    """
    if path.resolve() in readers:
        raise ConfigError(f"{path}: its arms_of leads back to itself; drop one of the files from arms_of")
    value = read_yaml_file(path)
    if not isinstance(value, dict):
        example = "arms: {narrow: {set: {stages.1.hidden: [64]}}}"
        raise ConfigError(f"{path}: expected keys such as {example}")
    question = validate(Question, value, str(path))
    arms = dict[str, ArmChanges]()
    for name in question.arms_of:
        arms |= read_question(path.parent / name, (*readers, path.resolve())).arms
    return question.model_copy(update={"arms": arms | question.arms})


def split_questions(text: str) -> list[int | str]:
    """Read numbers of questions and files, with commas between them.

    Example:
        >>> split_questions("1,6,mine.yaml")
        [1, 6, 'mine.yaml']
    """
    return [int(part) if part.isdecimal() else part for part in text.split(",")]


def read_questions(asked: Iterable[int | str | Path]) -> dict[str, Question]:
    """Questions by number, in ascending order, then those of files by the names of these. Raises ConfigError."""
    asked = list(asked)
    numbers = sorted({one for one in asked if isinstance(one, int)})
    if not asked or not set(QUESTIONS) >= set(numbers):
        raise ConfigError(f"questions: expected some of 1 to {len(QUESTIONS)}; received {numbers or 'none'}")
    questions = {str(number): read_question(PROVIDED / f"{number}.yaml") for number in numbers}
    for path in [Path(one) for one in asked if not isinstance(one, int)]:
        if path.stem in questions:
            raise ConfigError(f"{path}: there is a question '{path.stem}' already; rename the file")
        questions[path.stem] = read_question(path)
    return questions


def build_arms(config: Config, questions: Mapping[str, Question]) -> dict[str, ArmSet]:
    """The arms that each question of a study needs.

    Raises ConfigError unless there are two stages, of which the first alone has item vectors, and for a metric that
    there is not, or two arms of one name.
    """
    if [stage.has_vectors for stage in config.stages] != [True, False]:
        raise ConfigError(
            "stages: a study compares two stages, the first with item vectors, such as `model: towers`, the last "
            f"without, such as `model: mlp`; found {', '.join(stage.model for stage in config.stages)}"
        )
    from corank.analysis.experiments.figures import titles  # which loads torch

    known, arm_sets, identities = titles(config), dict[str, ArmSet](), dict[str, str]()
    for name, question in questions.items():
        for metric in question.metrics:
            if metric not in known:
                raise ConfigError(f"question {name}: metrics: {describe_unknown(metric, known, 'figure')}")
        arm_sets[name] = question.build(config, name)
        for arm in arm_sets[name].arms:
            if identities.setdefault(arm.name, arm.identity) != arm.identity:
                other = "another question has an arm of this name"
                raise ConfigError(f"question {name}: arms.{arm.name}: {other}")
    return arm_sets


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

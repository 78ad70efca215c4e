"""What a search compares: arms of a file, and spaces of parameters with ranges or, as a grid, lists of values.

All are checked before anything is trained.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import yaml

from corank.analysis.experiments.arms import Arm, ArmSet, format_values, priors_of, scale_stage
from corank.analysis.experiments.arms_file import find_arms, read_arms
from corank.core.errors import ConfigError
from corank.core.formatting import shorten
from corank.training.config.config import Config
from corank.training.config.config_file import Plain, plain, read, with_keys
from corank.training.config.settings import DenseOptimiser
from corank.training.config.yaml_values import read_yaml, read_yaml_file

NO_EFFECT = {
    r"name|packed|plugins": "it changes nothing that is trained",
    r"data(\..*)?": "it changes the rows that arms are compared on",
    r"train\.seed": "seeds are those of `corank experiment --seeds`",
    r"train\.(checkpoint_every|tables)": "it changes nothing that is learnt",
    r"retrieval(\..*)?|stages\.[0-9]+\.(deadline_ms|min_score)": "it changes the online funnel alone",
    r"(stages|teachers)\.[0-9]+\.name": "figures are told apart by the names of stages",
}
"""Keys that no trial can compare → the reason."""

Grid = Mapping[str, Sequence[Any]]
"""Key of the config, such as `train.rank.lr` → the values to try."""
MOST_POINTS = 200
"""Combinations of a grid's values, at most."""


def refuse_no_effect(key: str, option: str) -> None:
    """Raise ConfigError if a key cannot make trials differ."""
    for pattern, why in NO_EFFECT.items():
        if re.fullmatch(pattern, key):
            raise ConfigError(f"{option} {key}: {why}; a search cannot compare its values")


def build_file(config_file: Path, overrides: Sequence[str], named: Path) -> ArmSet:
    """The arms of a file, or of one that corank comes with. Raises ConfigError, which names the file and the key."""
    arms_file = find_arms(named)
    found, config = read_arms(arms_file), read(config_file, overrides)
    for name, changes in found.arms.items():
        for key in changes.set:
            refuse_no_effect(key, f"{arms_file}: arms.{name}.set:")
    return found.build(config, str(arms_file))


STRENGTHS, LAMBDAS = (0.0, 0.95), (0.05, 1.0)
"""Of a page: from the order by value to mostly diversity, and the other way around."""
LR_FACTOR = 10.0
"""Learning rates are searched from a tenth of the written one to ten times it."""
WEIGHT_FACTOR = 5.0
"""Weights of losses are searched from a fifth of the written one to five times it."""
WIDTHS = (0.5, 1.0, 2.0)
"""Factors on the widths of a stage's layers."""
DROPOUT = 0.5
"""The highest dropout."""
SMOOTHINGS = (3.0, 10.0, 30.0, 100.0)
"""Smoothings of priors: a few values, since each is packed once."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, or some values."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def parse(cls, text: str, source: str) -> "Range":
        """Read `LOW..HIGH`, `LOW..HIGH log` or `VALUE,VALUE`. Raises ConfigError, which begins with `source`.

        Example:
            >>> Range.parse("0.001..0.1 log", "--search train.rank.lr")
            Range(low=0.001, high=0.1, log=True, whole=False, choices=())
        """
        bounds = re.fullmatch(r"\s*(\S+?)\.\.(\S+)(\s+log)?\s*", text)
        try:
            if bounds is None:
                return cls.of_choices(read_yaml(f"[{text}]", source), source)
            low, high = (read_yaml(part, source) for part in bounds.groups()[:2])
        except yaml.YAMLError:
            raise _bad_range(source, text) from None
        if not {type(low), type(high)} <= {int, float}:
            raise _bad_range(source, text)
        log, whole = bounds[3] is not None, type(low) is int and type(high) is int
        if not -1e300 < low < high < 1e300 or (log and low <= 0):
            least = ", above 0 for log" if log else ""
            raise ConfigError(f"{source}: received {shorten(text)}; the lower end comes first{least}")
        return cls(low, high, log, whole)

    @classmethod
    def of_choices(cls, values: Sequence[Any], source: str, least: int = 2) -> "Range":
        """Some values. Raises ConfigError unless they are so many, and distinct."""
        if len({json.dumps(value) for value in values}) < max(least, len(values)):
            received = shorten(str(list(values)))
            raise ConfigError(f"{source}: expected {least} or more values, each once; received {received}")
        return cls(choices=tuple(values))

    def holds(self, value: Any) -> bool:
        """Whether a value is in the range."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(json.dumps(choice) for choice in self.choices)
        return f"{self.low:.4g}..{self.high:.4g}{' log' if self.log else ''}"


def _bad_range(source: str, text: str) -> ConfigError:
    expected = "LOW..HIGH, LOW..HIGH log or VALUE,VALUE"
    return ConfigError(f"{source}: expected {expected}; received {shorten(text)!r}")


@dataclass(frozen=True)
class Parameter:
    """One thing that is searched."""

    name: str
    """The key, or a name for several keys."""
    range: Range
    keys: tuple[str, ...] = ()
    """The keys of the config that get the value; the name unless given."""
    change: Callable[[Plain, Any], Plain] | None = None
    """In place of keys: takes plain values and the parameter's value."""
    written: Any = None
    """Its value in the config as written; None if that has none."""


@dataclass(frozen=True)
class Space:
    """The parameters, and the config that they change."""

    config: Config
    base: Path
    """Relative paths of the config begin here."""
    parameters: Mapping[str, Parameter]
    option: str = "--search"
    """What errors begin with."""

    @classmethod
    def of(cls, config: Config, base: Path, parameters: Sequence[Parameter]) -> "Space":
        """A space of some parameters. Raises ConfigError if there is none."""
        if not parameters:
            why = "the config has no learning rate or width"
            raise ConfigError(f"nothing to search: {why}; write --search KEY=RANGE")
        return cls(config, base, {parameter.name: parameter for parameter in parameters})

    @property
    def written(self) -> dict[str, Any] | None:
        """The parameters' values in the config as written; None unless all lie in their ranges."""
        in_range = all(p.range.holds(p.written) for p in self.parameters.values())
        return {name: p.written for name, p in self.parameters.items()} if in_range else None

    def config_of(self, values: Mapping[str, Any]) -> Config:
        """The config with parameters set, every optimiser written out. Raises ConfigError if they contradict."""
        changed, keys = plain(self.config), dict[str, Any]()
        for name, value in values.items():
            parameter = self.parameters[name]
            if parameter.change is not None:
                changed = parameter.change(changed, value)
            else:
                keys |= dict.fromkeys(parameter.keys or (name,), value)
        keys |= self._idle_on_page(keys)
        return Arm(self.option, with_keys(changed, keys, self.option, self.base)).at(1.0, 0)

    @property
    def page_method(self) -> str:
        """The key of the page's method, which says what other keys of the page count."""
        return f"{page_key(self.config)}.method"

    def _idle_on_page(self, keys: Mapping[str, Any]) -> dict[str, None]:
        """Keys of the page that do not count with the method that is set: they are removed."""
        if (method := keys.get(self.page_method)) is None:
            return {}
        idle = {"strength": method != "dpp", "lambda": method != "mmr", "by": method == "value"}
        return {f"{page_key(self.config)}.{key}": None for key, without in idle.items() if without}

    def plain(self) -> dict[str, str]:
        """The ranges by name, as text."""
        return {name: str(parameter.range) for name, parameter in self.parameters.items()}


def read_space(config: Config, base: Path, texts: Sequence[str]) -> Space:
    """The space of texts, each `KEY=RANGE` or a YAML file that maps keys to ranges; or of none. Raises ConfigError."""
    ranges: dict[str, Range] = {}
    for text in texts:
        key, equals, bounds = text.partition("=")
        for name, value, source in [(key, bounds, f"--search {key}")] if equals else _read_ranges(text):
            if name in ranges:
                raise ConfigError(f"{source}: given twice")
            values = isinstance(value, list)
            ranges[name] = Range.of_choices(value, source) if values else Range.parse(str(value), source)
    return _space_of(config, base, ranges, "--search")


def _read_ranges(file: str) -> Iterator[tuple[str, Any, str]]:
    """Keys and ranges of a file, and how errors name each. Raises ConfigError."""
    if not Path(file).is_file():
        example = "KEY=RANGE, such as train.rank.lr=0.001..0.1 log, or a YAML file of the same"
        raise ConfigError(f"--search {shorten(file)}: expected {example}")
    document = read_yaml_file(Path(file))
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: expected keys with ranges, such as train.rank.lr: 0.001..0.1 log")
    for key, value in document.items():
        yield str(key), value, f"{file}: {key}"


def read_grid(config: Config, base: Path, grid: Grid | Path) -> Space:
    """The space of a grid, or of a YAML file of one. Raises ConfigError, which names the file and the key."""
    source, values = ("--grid", grid) if isinstance(grid, Mapping) else (str(grid), read_yaml_file(grid))
    if not isinstance(values, Mapping) or not values:
        raise ConfigError(f"{source}: expected {_LISTS}")
    ranges = dict[str, Range]()
    for key, choices in values.items():
        if not isinstance(choices, list | tuple):
            raise ConfigError(f"{source}: {key}: expected {_LISTS}; received {shorten(str(choices))}")
        ranges[str(key)] = Range.of_choices(choices, f"{source}: {key}", least=1)
    space = _space_of(config, base, ranges, source)
    if (count := prod(len(span.choices) for span in ranges.values())) > MOST_POINTS:
        said = f"{count:,} combinations, more than {MOST_POINTS}"
        raise ConfigError(f"{source}: {said}; `corank tune --search` searches larger spaces")
    points = list_points(space)
    if not points:
        raise ConfigError(f"{source}: all of it is the config as written; give other values")
    for point in points:
        try:
            space.config_of(point)
        except ConfigError as error:
            said, why = shorten(", ".join(format_values(point)), 200), str(error)
            raise ConfigError(f"{source}: {said}: {why.removeprefix(f'{source}: ')}") from None
    return space


def list_points(space: Space) -> list[dict[str, Any]]:
    """The combinations of a grid's values, in their order, without the config as written."""
    choices = (parameter.range.choices for parameter in space.parameters.values())
    points = [dict(zip(space.parameters, point, strict=True)) for point in itertools.product(*choices)]
    return [point for point in points if point != space.written]


_LISTS = "keys with lists of values, such as train.rank.lr: [0.001, 0.003]"


def _space_of(config: Config, base: Path, ranges: Mapping[str, Range], option: str) -> Space:
    """Keys with their ranges and their values in the config. Raises ConfigError for one that has no effect."""
    written = plain(config)
    for network in config.networks.values():  # an optimiser may be there by default alone
        written["train"].setdefault(network.name, DenseOptimiser().model_dump(mode="json"))
    for key in ranges:
        refuse_no_effect(key, f"{option}:")
    parameters = {key: Parameter(key, span, written=_value_at(written, key)) for key, span in ranges.items()}
    return Space(config, base, parameters, option)


def _value_at(value: Any, key: str) -> Any:
    """The value at a key of plain values; None if there is no such place."""
    try:
        for part in key.split("."):
            value = value[int(part) if isinstance(value, list) else part]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return value


def check_space(space: Space) -> None:
    """Raise ConfigError if an end of a range is not valid in the config, or has no effect."""
    methods = space.parameters.get(space.page_method)
    others = [{space.page_method: method} for method in methods.range.choices] if methods else [{}]
    for name, parameter in space.parameters.items():
        span = parameter.range
        ends = span.choices or (span.low, span.high)
        configs = [[space.config_of(other | {name: end}) for end in ends] for other in others]
        if all(one == of[0] for of in configs for one in of):
            raise ConfigError(f"--search {name}: has no effect: the config is the same for all of {span}")


def require_page_metric(space: Space, metric: str) -> None:
    """Raise ConfigError if a key of the page is searched, on which the metric, no figure of pages, does not depend."""
    keys = [key for name, p in space.parameters.items() for key in p.keys or (name,)]
    if of_page := [key for key in keys if key.startswith(f"{page_key(space.config)}.")]:
        raise ConfigError(
            f"{space.option} {of_page[0]}: {metric} does not depend on the page; name a figure of it, such as "
            "--metric page.clicks, or page.near_clicks if users tire of what is alike"
        )


def default_space(config: Config) -> list[Parameter]:
    """Learning rates, widths, dropout, smoothing of priors and weights of losses, as far as the config has them."""
    value = plain(config)
    networks = [network.name for network in config.networks.values()]
    rates = {f"train.{n}.lr": config.train.stages.get(n, DenseOptimiser()).lr for n in networks}
    if config.declared.embedded():
        rates = {"train.table.lr": value["train"]["table"]["lr"]} | rates
    weights = {
        f"losses.{n}.weight": loss.weight for n, loss in enumerate(config.losses) if loss.kind != "click"
    }
    return [
        *(_factor(key, rate, LR_FACTOR) for key, rate in rates.items()),
        *structure_space(config, WIDTHS),
        *(
            Parameter(f"stages.{n}.dropout", Range(0.0, DROPOUT), written=config.stages[n].dropout)
            for n in _with_widths(config)
        ),
        *_smoothing(value),
        *(_factor(key, weight, WEIGHT_FACTOR) for key, weight in weights.items() if weight > 0),
    ]


def page_key(config: Config) -> str:
    """The key of a config's page."""
    return f"stages.{len(config.stages)}"


def page_space(config: Config) -> list[Parameter]:
    """What a page's method weighs value against similarity by. Raises ConfigError if it does not."""
    page, key = config.page, page_key(config)
    if page is None or page.method == "value":
        raise ConfigError(
            f"nothing to search: {key} orders by value alone; give it method: dpp and by:, or write --search KEY=RANGE"
        )
    name, ends = ("strength", STRENGTHS) if page.method == "dpp" else ("lambda", LAMBDAS)
    return [Parameter(f"{key}.{name}", Range(*ends), written=page.weight)]


def _with_widths(config: Config) -> list[int]:
    """The indices of the stages that have widths."""
    return [n for n, stage in enumerate(config.stages) if stage.scale_widths(2) != stage]


def structure_space(config: Config, factors: tuple[float, ...]) -> list[Parameter]:
    """Factors on the widths of each stage that has widths."""
    return [
        Parameter(f"stages.{n}.widths", Range(choices=factors), change=partial(scale_stage, n), written=1.0)
        for n in _with_widths(config)
    ]


def _factor(key: str, written: float, factor: float) -> Parameter:
    return Parameter(key, Range(written / factor, written * factor, log=True), written=written)


def _smoothing(value: Plain) -> list[Parameter]:
    """One smoothing for all priors that have a number there."""
    smoothings = {name: value["features"][name].get("smoothing") for name in priors_of(value)}
    numbers = {name: smoothing for name, smoothing in smoothings.items() if isinstance(smoothing, float)}
    if not numbers:
        return []
    same = set(numbers.values()) if len(set(numbers.values())) == 1 else set()
    keys = tuple(f"features.{name}.smoothing" for name in numbers)
    choices = Range(choices=tuple(sorted({*SMOOTHINGS, *same})))
    return [Parameter("priors.smoothing", choices, keys, written=next(iter(same), None))]

"""The gate: conditions on the figures of a candidate and of the live run, which a candidate must meet to go live.

A condition is a text: `FIGURE >= NUMBER`, `FIGURE <= NUMBER`, `FIGURE >= live - NUMBER`, `FIGURE <= live + NUMBER` or
`FIGURE in [LOW, HIGH]`. Figures are named as `corank evaluate --json` nests them below `stages`, and below `cascade`:
`rank.exposed.click.auc`, `cascade.click_recall@50`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from corank.core.errors import ConfigError
from corank.core.settings import describe_unknown

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_FIGURE = r"(?P<figure>[\w.@]+)"
_BOUND = re.compile(
    rf"{_FIGURE} (?P<operator>>=|<=) (?:(?P<number>{_NUMBER})|live(?P<change> [+-] {_NUMBER})?)"
)
_RANGE = re.compile(rf"{_FIGURE} in \[(?P<low>{_NUMBER}), (?P<high>{_NUMBER})\]")
EXAMPLES = "'rank.exposed.click.auc >= live - 0.002' or 'rank.exposed.click.pcoc_calibrated in [0.9, 1.1]'"


@dataclass(frozen=True)
class Condition:
    """One condition: bounds of a figure, which are added to the live run's figure if they are `of_live`."""

    text: str
    figure: str
    low: float | None
    high: float | None
    of_live: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a condition. Raises ValueError, which shows how one is written."""
        plain = " ".join(text.split())
        if match := _RANGE.fullmatch(plain):
            lowest, highest = float(match["low"]), float(match["high"])
            if lowest > highest:
                raise ValueError(f"the range of {plain!r} is empty: {lowest:g} is above {highest:g}")
            return cls(plain, match["figure"], lowest, highest)
        if match := _BOUND.fullmatch(plain):
            of_live = match["number"] is None
            bound = float((match["change"] or "0").replace(" ", "") if of_live else match["number"])
            low, high = (bound, None) if match["operator"] == ">=" else (None, bound)
            return cls(plain, match["figure"], low, high, of_live)
        raise ValueError(f"expected a condition such as {EXAMPLES}; received {text!r}")

    def check(self, candidate: Mapping[str, float], live: Mapping[str, float] | None) -> "CheckedCondition":
        """Check a candidate's figures; without a live run, what compares with it holds.

        Raises ConfigError if there is no such figure.
        """
        if self.figure not in candidate and (live is None or self.figure not in live):
            raise ConfigError(f"gate: {describe_unknown(self.figure, candidate, 'figure')}")
        value = candidate.get(self.figure)
        base = 0.0
        if self.of_live:
            if live is None:
                return CheckedCondition(self, value, None, True)
            if self.figure not in live:
                return CheckedCondition(self, value, None, value is not None)
            base = live[self.figure]
        bounds = self.low is None or (value is not None and value >= base + self.low)
        bounds = bounds and (self.high is None or (value is not None and value <= base + self.high))
        return CheckedCondition(self, value, base if self.of_live else None, bounds)


@dataclass(frozen=True)
class CheckedCondition:
    """A condition with the figures that it was checked on."""

    condition: Condition
    value: float | None
    """The candidate's figure; None if it is not defined, as an AUC without a click is."""
    live: float | None
    """The live run's, if the condition compares with it and there is one."""
    met: bool

    def describe(self) -> str:
        """Say what was asked and what was found."""
        found = "not defined" if self.value is None else f"{self.value:.4f}"
        live = "" if self.live is None else f", live {self.live:.4f}"
        return f"{self.condition.text}: {found}{live}"

    def to_json(self) -> dict[str, Any]:
        """The line of the gate's table."""
        return {
            "condition": self.condition.text,
            "value": self.value,
            "live": self.live,
            "met": self.met,
        }


def _read(value: object) -> Condition:
    if isinstance(value, Condition):
        return value
    try:
        return Condition.parse(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise PydanticCustomError("condition", "{message}", {"message": str(error)}) from None


GateCondition = Annotated[
    Condition, BeforeValidator(_read), PlainSerializer(lambda c: c.text, return_type=str)
]
"""A settings field of a condition, written as text."""


def figures_of(document: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of both sides of a comparison, `a` and `b`, named as an evaluation names its own."""
    sides: tuple[dict[str, float], dict[str, float]] = ({}, {})

    def collect(node: Mapping[str, Any], name: str) -> None:
        if "verdict" in node:
            for side, key in zip(sides, "ab", strict=True):
                side[name] = float(node[key])
            return
        for key, below in node.items():
            if isinstance(below, Mapping):
                collect(below, f"{name}.{key}" if name else key)

    collect(document["stages"], "")
    cuts = document["cuts"]
    collect({**next(iter(cuts.values()), {}), **document["cascade"]}, "cascade")
    if len(cuts) > 1:
        collect(cuts, "cascade.stages")
    return sides

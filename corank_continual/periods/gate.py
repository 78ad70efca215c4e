"""The gate: conditions on the figures of a candidate, which it must meet to go live.

A condition is a text: `FIGURE >= NUMBER`, `FIGURE <= NUMBER`, `FIGURE >= BASE - NUMBER`, `FIGURE <= BASE + NUMBER` or
`FIGURE in [LOW, HIGH]`. BASE is `live`, the live run's figure on the same rows, or `median`, that of the candidates of
earlier periods that went live, each on its own rows: where rows are wrong, both runs are bad on them, and only `median`
shows it. A figure is named by its row of `corank evaluate`, STAGE.POPULATION.LABEL.METRIC without what it has not:
`rank.exposed.click.auc`, `prerank.cut.click_recall@50`, `cascade.joint_click_recall@10`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Self

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from corank.core.errors import ConfigError
from corank.core.settings import describe_unknown

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_FIGURE = r"(?P<figure>[\w.@]+)"
_BOUND = re.compile(
    rf"{_FIGURE} (?P<operator>>=|<=) (?:(?P<number>{_NUMBER})|(?P<base>live|median)(?P<change> [+-] {_NUMBER})?)"
)
_RANGE = re.compile(rf"{_FIGURE} in \[(?P<low>{_NUMBER}), (?P<high>{_NUMBER})\]")
EXAMPLES = (
    "'rank.exposed.click.auc >= live - 0.002', 'rank.exposed.click.auc >= median - 0.03' or "
    "'rank.exposed.click.pcoc_calibrated in [0.9, 1.1]'"
)
PERIODS = 7
"""Earlier periods whose median is taken, at most."""


def _read_number(text: str) -> float:
    """Read a number of a condition. Raises ValueError for one that no figure can be compared with."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number; a condition is such as {EXAMPLES}")
    return number


@dataclass(frozen=True)
class Condition:
    """One condition: bounds of a figure, which are added to another figure if there is a base."""

    text: str
    figure: str
    low: float | None
    high: float | None
    base: str | None = None
    """`live` or `median`."""

    @property
    def requirement(self) -> str:
        """The bounds of its figure, such as `>= live - 0.002`."""
        return self.text.removeprefix(self.figure).strip()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a condition. Raises ValueError, which shows how one is written."""
        plain = " ".join(text.split())
        if match := _RANGE.fullmatch(plain):
            lowest, highest = _read_number(match["low"]), _read_number(match["high"])
            if lowest > highest:
                raise ValueError(f"the range of {plain!r} is empty: {lowest:g} is above {highest:g}")
            return cls(plain, match["figure"], lowest, highest)
        if match := _BOUND.fullmatch(plain):
            bound = _read_number(match["number"] or (match["change"] or "0").replace(" ", ""))
            low, high = (bound, None) if match["operator"] == ">=" else (None, bound)
            return cls(plain, match["figure"], low, high, match["base"])
        raise ValueError(f"expected a condition such as {EXAMPLES}; received {text!r}")

    def check(
        self,
        candidate: Mapping[str, float],
        live: Mapping[str, float] | None,
        earlier: Sequence[Mapping[str, float]] = (),
        reasons: Mapping[str, str] = {},
    ) -> "CheckedCondition":
        """Check a candidate's figures; without its base, a condition holds.

        Args:
            candidate: its figures.
            live: those of the live run, on the same rows; None if there is none.
            earlier: those of the candidates that went live in earlier periods, in order.
            reasons: by figure, why the log cannot tell it.

        Raises ConfigError if there is no such figure.
        """
        if all(self.figure not in figures for figures in (candidate, live or {}, *earlier, reasons)):
            raise ConfigError(f"gate: {describe_unknown(self.figure, candidate, 'figure')}")
        value = candidate.get(self.figure)
        reason = reasons.get(self.figure) or self._absence(candidate, earlier) if value is None else None
        base = self._base(live, earlier)
        if self.base is not None and base is None:
            met = value is not None or live is None
            return CheckedCondition(self, value, None, None, None, met, reason)
        low, high = (None if bound is None else bound + (base or 0.0) for bound in (self.low, self.high))
        met = value is not None and (low is None or value >= low) and (high is None or value <= high)
        return CheckedCondition(self, value, base, low, high, met, reason)

    def _absence(self, candidate: Mapping[str, float], earlier: Sequence[Mapping[str, float]]) -> str:
        """Say that a candidate lacks the figure, and which are of its metric and new: another release names it so."""
        metric = self.figure.rpartition(".")[2]
        of_metric = [name for name in candidate if name.rpartition(".")[2] == metric]
        new = [name for name in of_metric if all(name not in figures for figures in earlier)]
        return "not defined" + (f" (now {', '.join(new)}?)" if new and earlier else "")

    def _base(self, live: Mapping[str, float] | None, earlier: Sequence[Mapping[str, float]]) -> float | None:
        """The base figure for the candidate's; None if there is none, or the condition has no base."""
        if self.base == "live":
            return None if live is None else live.get(self.figure)
        known = [figures[self.figure] for figures in earlier if self.figure in figures]
        return median(known[-PERIODS:]) if self.base == "median" and known else None


@dataclass(frozen=True)
class CheckedCondition:
    """A condition with the figures that it was checked on."""

    condition: Condition
    value: float | None
    """The candidate's figure; None if it is not defined, as an AUC without a click is."""
    base: float | None
    """The base figure, if the condition has a base and it exists."""
    low: float | None
    """The least that meets the condition, the base added; None if there is no such bound."""
    high: float | None
    """The largest that meets it."""
    met: bool
    reason: str | None = None
    """Why it is not defined."""

    def describe(self) -> str:
        """Describe the condition and its figures."""
        value = self.reason if self.value is None else f"{self.value:.4f}"
        base = "" if self.base is None else f", {self.condition.base} {self.base:.4f}"
        return f"{self.condition.text}: {value}{base}"


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

"""`kind: within`: a number of a candidate beside the same number of its request's candidates.

Letters: N results · M candidates of their requests.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from corank.core.errors import ConfigError
from corank.core.types import Doubles, Index, Longs
from corank.features.feature_kind import FEATURE_KINDS, Side, Use
from corank.features.kinds.scaled import ScaledFeature
from corank.features.operand_rows import OperandRows
from corank.features.priors import PointInTime
from corank.features.schema import Schema


@FEATURE_KINDS.register("within")
class WithinFeature(ScaledFeature):
    """A number of an item beside the same number of all candidates of the request, those of which it is known.

    It is missing where the number is. A pair that is no candidate of the request, such as a negative from beyond the
    log, has the value that it would have as one candidate more.
    """

    kind: Literal["within"] = "within"
    of: str
    """A number of the item."""
    measure: Literal["rank", "ratio"] = "rank"
    """`rank`: the share of the candidates whose number is smaller; those with the same, itself included, count half.
    `ratio`: the number over the candidates' median; missing if that is 0."""

    operands_text: ClassVar[str] = "an item feature of kind number or bucket"
    compares_candidates: ClassVar[bool] = True
    clips: ClassVar[bool] = True

    @property
    def operands(self) -> Sequence[str]:
        """The number."""
        return [self.of]

    @property
    def operand_uses(self) -> Sequence[Collection[Use]]:
        """A number."""
        return [{"number"}]

    @property
    def made_of(self) -> str | None:
        """The number, and the request's candidates."""
        return f"{self.of}, the request's candidates"

    def side_among(self, side_of: Callable[[str], Side]) -> Side:
        """Of the pair: another request has other candidates."""
        return "cross"

    def check(self, name: str, schema: Schema) -> None:
        """Raise ConfigError if it is of no number, or of one that all candidates of a request share."""
        super().check(name, schema)
        if schema.placement(self.of) != "item":
            raise ConfigError(
                f"features.{name}.of: '{self.of}' is a {schema.side(self.of)} feature, the same for all candidates of "
                f"a request; name {self.operands_text}"
            )

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """Ranks or ratios, NaN where missing: (N,)."""
        number, request, others = operands.number(self.of), operands.request(), operands.candidates
        if others is None:
            compared = _Compared.of(number, request, number, request, more=0)
        else:
            compared = _Compared.of(number, request, others.number(self.of), others.request(), more=1)
        return compared.ranks() if self.measure == "rank" else compared.ratios()


@dataclass(frozen=True)
class _Compared:
    """Numbers of N results, and where each stands among the known numbers of its request, in ascending order."""

    number: Doubles
    """NaN where missing: (N,)."""
    ordered: Doubles
    """The known numbers of all candidates, by request and ascending: (M,)."""
    begin: Longs
    """Where those of each result's request begin among them: (N,)."""
    count: Longs
    """How many they are: (N,)."""
    less: Longs
    """How many of them are smaller: (N,)."""
    not_more: Longs
    """How many of them are not larger: (N,)."""
    more: int
    """1 if the result is no candidate, and counts as one more, else 0."""

    @classmethod
    def of(cls, number: Doubles, request: Index, among: Doubles, request_of: Index, more: int) -> Self:
        """Sort the known numbers `among` candidates of the requests `request_of`, (M,), and look each result's up."""
        known = ~np.isnan(among)
        among, request_of = among[known], request_of[known]
        # one number that holds the request and the place of the value, so that one sort orders both
        values, code = np.unique(np.concatenate((among, number)), return_inverse=True)
        keys = np.concatenate((request_of, request)).astype(np.int64) * (len(values) + 1) + code
        order = np.argsort(keys[: len(among)], kind="stable")
        held, asked = keys[order], keys[len(among) :]
        first = request.astype(np.int64) * (len(values) + 1)
        begin = np.searchsorted(held, first)
        return cls(
            number,
            among[order],
            begin,
            np.searchsorted(held, first + len(values) + 1) - begin,
            np.searchsorted(held, asked) - begin,
            np.searchsorted(held, asked, "right") - begin,
            more,
        )

    def ranks(self) -> Doubles:
        """The mean of two shares of the candidates: of those that are smaller, and of those that are not larger."""
        known = ~np.isnan(self.number)
        count = np.where(known, self.count + self.more, 1)
        return np.where(known, (self.less + self.not_more + self.more) / (2 * count), np.nan)

    def ratios(self) -> Doubles:
        """The numbers over the medians, NaN where the quotient is not finite."""
        count = self.count + self.more
        with np.errstate(all="ignore"):
            found = self.number / ((self._nth((count - 1) // 2) + self._nth(count // 2)) / 2)
        return np.where(np.isfinite(found), found, np.nan)

    def _nth(self, n: Longs) -> Doubles:
        """The n-th smallest number of the candidates, from 0, the result itself included: (N,)."""
        if not self.more:
            return self._at(n)
        # one number more lies between its neighbours, or moves the next up
        return np.clip(self.number, self._at(n - 1), self._at(n))

    def _at(self, n: Longs) -> Doubles:
        """The n-th smallest of the candidates; −∞ before the first, ∞ after the last."""
        padded = np.append(self.ordered, np.inf)
        found = padded[np.clip(self.begin + n, 0, len(self.ordered))]
        return np.where(n < 0, -np.inf, np.where(n < self.count, found, np.inf))

"""`kind: within`: a number of a candidate compared with that number of all candidates of its request.

What kinds share that need all candidates of a request: `ComparingFeature`.

Letters: N results · M candidates of their requests.
"""

from abc import ABC
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np

from corank.core.errors import ConfigError
from corank.core.time import NEVER
from corank.core.types import Doubles, Index, Longs
from corank.features.feature_kind import FEATURE_KINDS, FeatureSet, Side, Use
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import ScaledFeature


@dataclass(frozen=True)
class CandidateNumbers:
    """Numbers of N results, and those of the M candidates of their requests; NaN where missing."""

    number: Doubles
    """(N,)"""
    request: Index
    """Of each result: (N,)."""
    among: Doubles
    """Of the candidates: (M,)."""
    request_of: Index
    """Of each candidate: (M,)."""
    more: int
    """1 if the results are no candidates, and each counts as one more, else 0."""


class ComparingFeature(ScaledFeature, ABC):
    """A number of a candidate, compared with that of all candidates of the request that have one.

    It is missing where the number is. A pair that is no candidate of the request, such as a negative from beyond the
    log, has the value that it would have as one candidate more.
    """

    of: str
    """A number of the item or of the candidate's row of the log, or a derived one, such as a prior of the item."""

    operands_text: ClassVar[str] = "a number that differs between candidates"
    operand_uses: ClassVar[Sequence[Collection[Use]]] = [{"number"}]
    compares_candidates: ClassVar[bool] = True
    clips: ClassVar[bool] = True

    @property
    def operands(self) -> Sequence[str]:
        """The number."""
        return [self.of]

    @property
    def made_of(self) -> str | None:
        """The number, and the request's candidates."""
        return f"{self.of}, the request's candidates"

    def side_among(self, side_of: Callable[[str], Side]) -> Side:
        """Of the pair: another request has other candidates."""
        return "cross"

    def check(self, name: str, schema: FeatureSet) -> None:
        """Raise ConfigError if it is of no number, or of one that all candidates of a request share."""
        key = f"features.{name}.of"
        schema.check_operand(key, self.of, any_of=True)
        derived = schema.features[self.of].as_derived if self.of in schema.features else None
        if "number" not in schema.uses_of(self.of) or (derived is not None and derived.compares_candidates):
            raise ConfigError(f"{key}: a {self.kind} is of {self.operands_text}; '{self.of}' is none")
        if (side := schema.side(self.of)) in ("user", "context"):
            raise ConfigError(
                f"{key}: '{self.of}' is a {side} feature, the same for all candidates of a request; "
                f"name {self.operands_text}"
            )

    def compare(self, operands: OperandRows, when: PointInTime) -> CandidateNumbers:
        """The numbers of the results and of the candidates."""
        number, request, others = self._numbers(operands, when), operands.request(), operands.candidates
        if others is None:
            return CandidateNumbers(number, request, number, request, more=0)
        # requests without a result do not matter
        times = np.full(max(request.max(initial=-1), others.request().max(initial=-1)) + 1, NEVER)
        times[request] = when.times
        among = self._numbers(others, replace(when, times=times[others.request()]))
        return CandidateNumbers(number, request, among, others.request(), more=1)

    def _numbers(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """The numbers that are compared, of a column or derived: (N,)."""
        derived, times = when.derived.get(self.of), when.times
        if derived is None:
            return operands.number(self.of)
        if derived.snapshot_every is not None:
            times = when.snapshots.cuts(self.of, derived.snapshot_every, times)
        return derived.derive(operands, replace(when, name=self.of, times=times)).astype(np.float64)


@FEATURE_KINDS.register("within")
class WithinFeature(ComparingFeature):
    """A number of a candidate compared with that of all candidates of the request."""

    kind: Literal["within"] = "within"
    measure: Literal["rank", "ratio"] = "rank"
    """`rank`: the share of the candidates whose number is smaller; those with the same, itself included, count half.
    `ratio`: the number over the candidates' median; missing if that is 0."""

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """Ranks or ratios, NaN where missing: (N,)."""
        compared = _Compared.of(self.compare(operands, when))
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
    def of(cls, numbers: CandidateNumbers) -> Self:
        """Sort the known numbers of the candidates, and look each result's up."""
        number, request, known = numbers.number, numbers.request, ~np.isnan(numbers.among)
        among, request_of = numbers.among[known], numbers.request_of[known]
        # one number that holds the request and the place of the value, so that one sort orders both
        values, code = np.unique(np.concatenate((among, number)), return_inverse=True)
        keys = np.concatenate((request_of, request)).astype(np.int64) * (len(values) + 1) + code
        order = np.argsort(keys[: len(among)], kind="stable")
        sorted_keys, asked = keys[order], keys[len(among) :]
        first = request.astype(np.int64) * (len(values) + 1)
        begin = np.searchsorted(sorted_keys, first)
        return cls(
            number,
            among[order],
            begin,
            np.searchsorted(sorted_keys, first + len(values) + 1) - begin,
            np.searchsorted(sorted_keys, asked) - begin,
            np.searchsorted(sorted_keys, asked, "right") - begin,
            numbers.more,
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
            quotients = self.number / ((self._nth((count - 1) // 2) + self._nth(count // 2)) / 2)
        return np.where(np.isfinite(quotients), quotients, np.nan)

    def _nth(self, n: Longs) -> Doubles:
        """The n-th smallest number of the candidates, from 0, the result itself included: (N,)."""
        if not self.more:
            return self._at(n)
        # one number more lies between its neighbours, or moves the next up
        return np.clip(self.number, self._at(n - 1), self._at(n))

    def _at(self, n: Longs) -> Doubles:
        """The n-th smallest of the candidates; −∞ before the first, ∞ after the last."""
        padded = np.append(self.ordered, np.inf)
        numbers = padded[np.clip(self.begin + n, 0, len(self.ordered))]
        return np.where(n < 0, -np.inf, np.where(n < self.count, numbers, np.inf))

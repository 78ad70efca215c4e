"""The page: slots that are filled one after the other, by value, by what is on the page already, and by rules.

A slot takes the candidate of the best score among those that `corank.core.page_rules` leaves. The score of a method,
with v the value of the stage before, S the similarity of two candidates, and A those on the page:

    value   v
    mmr     λ · v / max |v|  −  (1 − λ) · greatest S of it and one of A        (Carbonell and Goldstein 1998)
    dpp     q² · det L_{A + it} / det L_A,  L_ij = q_i q_j ((1 − s) [i = j] + s S_ij)

`dpp` is the fast greedy MAP of a determinantal point process (Chen, Zhang, Zhou 2018): a row of the Cholesky factor a
slot, O(n k d). q is the value; one that is not above a millionth of the greatest counts as that. s is the `strength`:
at 0 the order is that by value. S is the cosine of vectors; or, by a feature of ids, 1 for equal values, and of lists
the share of common values, |a ∩ b| / √(|a| |b|). What has no vector, or no value, is like nothing else.

Letters: n candidates · d width of vectors · k slots.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field, PositiveInt, model_validator

from corank.core.page_rules import Arrangement, RuleValues, Scores, arrange
from corank.core.settings import Settings
from corank.core.types import Doubles, Longs, Numbers

PAGE: Literal["page"] = "page"
"""The name of the stage model."""
MOST_SLOTS = 500
"""Slots of a page, at most."""
MOST_RULES = 16
LEAST_QUALITY = 1e-6
"""Of the greatest value; a determinant needs qualities above 0."""

Method = Literal["value", "mmr", "dpp"]


class PageRule(Settings):
    """A rule of a page: of `at_most`, `at_least` and `slot` it has one. Experimental.

    Example:
        {at_most: 2, of: category, within: 10}
    """

    at_most: PositiveInt | None = None
    """Of each value of the feature no more than so many items stand in `within` slots that follow each other; of a
    number, of all items whose number is above 0."""
    at_least: PositiveInt | None = None
    """So many items of `within` slots that follow each other have the feature."""
    slot: PositiveInt | None = None
    """This slot, counted from 1, is for items that have the feature."""
    never: bool = False
    """With `slot`: it is for items that do not have it."""
    of: str
    """An item feature. An item has it if its number is above 0, or if it has a value that is not 0."""
    within: PositiveInt | None = None
    """Slots; the whole page by default. A shorter page counts as so many."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        chosen = [key for key in ("at_most", "at_least", "slot") if getattr(self, key) is not None]
        if len(chosen) != 1:
            received = " and ".join(chosen) or "neither"
            raise ValueError(f"a rule has one of at_most, at_least and slot; received {received}")
        if self.slot is None and self.never:
            raise ValueError("never goes with slot; write {slot: 1, of: FEATURE, never: true}")
        if self.slot is not None and self.within is not None:
            raise ValueError("within has no effect with slot; drop it")
        if self.at_least is not None and self.within is not None and self.at_least > self.within:
            raise ValueError(f"at_least {self.at_least} cannot be within {self.within} slots")
        return self

    @property
    def counts_values(self) -> bool:
        """Whether each value of the feature counts by itself."""
        return self.at_most is not None

    def __str__(self) -> str:
        if self.slot is not None:
            return f"slot {self.slot} {'never' if self.never else 'is'} {self.of}"
        bound = f"at most {self.at_most}" if self.at_most is not None else f"at least {self.at_least}"
        return f"{bound} of {self.of}" + (f" within {self.within}" if self.within else "")


class PageSettings(Settings):
    """The last stage: it fills the slots of a page out of what the stage before keeps. Nothing of it is trained.

    Experimental.

    Example:
        {name: page, model: page, keep: 10, method: dpp, by: prerank.vector, rules: [{at_most: 2, of: category}]}
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """Names it in answers, traces and figures."""
    model: Literal["page"] = PAGE
    keep: Annotated[PositiveInt, Le(MOST_SLOTS)]
    """Slots."""
    method: Method = "value"
    """By what a slot is filled: the value alone, the value less what is like it on the page, or a determinant."""
    by: str | None = None
    """What similarity is of: an item part, `STAGE.PART` such as `prerank.vector`, or an item feature: a vector, ids."""
    strength: Annotated[float, Ge(0), Lt(1)] | None = None
    """Of dpp: how much similarity counts, 0.5 by default; at 0 not at all."""
    lambda_: Annotated[float, Gt(0), Le(1)] | None = Field(None, alias="lambda")
    """Of mmr: how much the value counts, 0.7 by default; at 1 alone."""
    rules: list[PageRule] = Field([], max_length=MOST_RULES)
    """Hard; if they cannot all be kept, the least number of slots breaks some, and later rules first."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.by is None) != (self.method == "value"):
            needs = "by has no effect with method: value; drop it, or write method: dpp"
            lacks = f"method: {self.method} needs by: what similarity is of, such as prerank.vector"
            raise ValueError(needs if self.by is not None else lacks)
        for key, method in (("strength", "dpp"), ("lambda_", "mmr")):
            if getattr(self, key) is not None and self.method != method:
                raise ValueError(f"{key.rstrip('_')} has no effect with method: {self.method}; drop it")
        return self

    def without_features(self, names: Collection[str]) -> Self:
        """The page without rules of some features; by value, if similarity is of one of them."""
        page = self.by_value() if self.by in names else self
        return page.model_copy(update={"rules": [rule for rule in self.rules if rule.of not in names]})

    def by_value(self) -> Self:
        """The page under the same rules, filled by value alone."""
        return self.model_copy(update={"method": "value", "by": None, "strength": None, "lambda_": None})

    @property
    def weight(self) -> float:
        """`strength`, or `lambda`."""
        if self.method == "dpp":
            return 0.5 if self.strength is None else self.strength
        return 0.7 if self.lambda_ is None else self.lambda_

    def weighed(self, weight: float) -> Self:
        """The page with another `strength` or `lambda`."""
        return self.model_copy(update={"strength" if self.method == "dpp" else "lambda_": weight})

    @property
    def item_part(self) -> str | None:
        """The item part that similarity is of, `STAGE.PART`; None if it is a feature, or there is none."""
        return self.by if self.by is not None and "." in self.by else None

    @property
    def features(self) -> list[str]:
        """The item features that it reads."""
        named = [*([self.by] if self.by and not self.item_part else []), *(rule.of for rule in self.rules)]
        return list(dict.fromkeys(named))


class PageCandidates(NamedTuple):
    """What a page is filled from: n candidates, by value, the best first."""

    value: Numbers
    """(n,), finite."""
    vectors: Doubles | None
    """Of length 1, or 0: (n, d); None with method: value."""
    rules: Sequence[RuleValues]
    """By rule what each candidate has."""


class _ByValue:
    def __init__(self, value: Doubles) -> None:
        self.score = value.copy()

    def place(self, at: int) -> None:
        """The score of others stays."""
        self.score[at] = -np.inf


class _ByMmr:
    def __init__(self, value: Doubles, vectors: Doubles, weight: float) -> None:
        greatest = np.abs(value).max(initial=0.0)
        self._value = value * (weight / greatest) if greatest > 0 else np.zeros(len(value))
        self._vectors, self._share, self._near = vectors, 1 - weight, np.full(len(value), -np.inf)
        self.score = self._value

    def place(self, at: int) -> None:
        """Count what is like it less."""
        self._value[at] = -np.inf
        np.maximum(self._near, self._vectors @ self._vectors[at], out=self._near)
        self.score = self._value - self._share * self._near


class _ByDpp:
    """What is left of each candidate's quality, squared, once what is on the page is taken out of it."""

    def __init__(self, value: Doubles, vectors: Doubles, strength: float, slots: int) -> None:
        greatest = value.max(initial=0.0)
        least = LEAST_QUALITY * greatest
        quality = np.maximum(value, least) / greatest if least > 0 else np.ones(len(value))
        self._scaled, self._strength = vectors * quality[:, None], strength
        self._rows, self._count = np.empty((slots, len(value))), 0
        self.score = quality * quality

    def place(self, at: int) -> None:
        """Take the part of the others that lies along it out of them: a row of the Cholesky factor."""
        rows, count = self._rows, self._count
        row = self._scaled @ (self._scaled[at] * self._strength)
        if count:
            row -= rows[:count, at] @ rows[:count]
        row *= self.score[at] ** -0.5
        rows[count], self._count = row, count + 1
        self.score -= row * row
        self.score[at] = -np.inf


def _scores(settings: PageSettings, candidates: PageCandidates, slots: int) -> Scores:
    value = np.asarray(candidates.value, dtype=np.float64)
    if settings.method == "value" or candidates.vectors is None:
        return _ByValue(value)
    if settings.method == "mmr":
        return _ByMmr(value, candidates.vectors, settings.weight)
    return _ByDpp(value, candidates.vectors, settings.weight, slots)


def unit_vectors(vectors: Numbers) -> Doubles:
    """Bring vectors, (n, d), to length 1; one of length 0, or that is not finite, to 0."""
    doubles = np.asarray(vectors, dtype=np.float64)
    squares = np.einsum("nd,nd->n", doubles, doubles)
    odd = ~np.isfinite(squares) | (squares == 0)
    if odd.any():
        doubles, squares = np.where(odd[:, None], 0.0, doubles), np.where(odd, 1.0, squares)
    unit: Doubles = doubles * (squares**-0.5)[:, None]
    return unit


@dataclass(frozen=True)
class Page:
    """A page: which candidate stands in each slot, and where rules could not be kept."""

    slots: Longs
    """Positions of the candidates, (k,), or fewer if there are fewer candidates."""
    broken: Sequence[tuple[int, int]]
    """Slot and rule, both from 0, in order."""


class Passed(NamedTuple):
    """Why a candidate does not stand where its value would put it."""

    slot: int
    """The first slot, from 0, that one of a lower value took."""
    rule: int | None
    """The rule that it would have broken there."""
    neighbour: int | None
    """The candidate on the page that is most like it. If neither is there, rules of later slots need its place."""


def fill_page(settings: PageSettings, candidates: PageCandidates, keep: int | None = None) -> Page:
    """Fill the slots of a page.

    Args:
        settings: of the page.
        candidates: n of them.
        keep: slots, `settings.keep` by default.

    Each slot takes the best score of its method among the candidates that rules leave, ties in the order given.
    """
    slots = min(settings.keep if keep is None else keep, len(candidates.value))
    if settings.method == "value" and not candidates.rules:
        return Page(np.argsort(-np.asarray(candidates.value), kind="stable")[:slots], [])
    return Page(*arrange(candidates.rules, slots, lambda: _scores(settings, candidates, slots)))


def explain_page(settings: PageSettings, candidates: PageCandidates, page: Page) -> dict[int, Passed]:
    """Say of each candidate that a lower value took the place of what kept it from there.

    Returns:
        By the position of the candidate.
    """
    scores, value = _scores(settings, candidates, len(page.slots)), np.asarray(candidates.value)
    arrangement, passed = Arrangement(candidates.rules, len(page.slots)), dict[int, Passed]()
    free = np.ones(len(value), dtype=bool)
    for slot, at in enumerate(page.slots.tolist()):
        free[at] = False
        better = np.flatnonzero(
            free & ((value > value[at]) | ((value == value[at]) & (np.arange(len(value)) < at)))
        )
        costs = arrangement.costs()
        for n in better.tolist():
            if n not in passed:
                rule = arrangement.rule_between(costs, n, at)
                near = None
                if rule is None and scores.score[n] < scores.score[at] and candidates.vectors is not None:
                    near = int(
                        page.slots[(candidates.vectors[page.slots[:slot]] @ candidates.vectors[n]).argmax()]
                    )
                passed[n] = Passed(slot, rule, near)
        scores.place(at)
        arrangement.place(at)
    return passed

"""The rules of a page: what a slot may take, and how they are broken least where they cannot all be kept.

Slots are filled in order. A rule is broken by a slot:

    at most m within w     a value of its item stands at more than m of the w slots that end with it
    at least m within w    fewer than m of the w slots that end with it have the feature; slots before the w-th are free
    slot t                 it is slot t, and its item has the feature, or not, against the rule

The cost of a page is the number of slots that break some rule; of equal numbers, the fewer that break the first rule,
then the second, and so on: later rules are broken first. Every page has the least cost that a page of its candidates
can have, so rules are broken only where they cannot be kept:

1. A slot takes, of the candidates that break the least there, by earlier rules first, the one of the best score. One
   that a later slot cannot do without counts as breaking the rule of that slot. If the page that is filled so keeps all
   rules, it is also the greedy one among all pages that do: each slot has the best score with which the rest can still
   be filled. If it breaks some, but no more than any page must, it stands.
2. Otherwise pages are searched, by what rules see of candidates: those that are alike to all rules are one type. Then a
   slot takes, of the candidates with which the page can still be filled at the least cost, those that break the least
   there, and of these the best score.

The search ends after MOST_CHECKS, and with more than FEW candidates after an eighth of it; then the first page stands.

Letters: n candidates · k slots · L values of a candidate, at most.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from corank.core.types import Doubles, Longs, Mask

MOST_CHECKS = 20_000
"""Types that are tried in slots, at most, of one page of FEW candidates; of more candidates an eighth of it."""
FEW = 8
"""Candidates, up to which that many are enough for whatever rules were drawn."""


class RuleValues(NamedTuple):
    """A rule, and what each candidate has of its feature."""

    kind: Literal["at_most", "at_least", "slot"]
    number: int
    """How many, or the slot from 1."""
    within: int | None
    """Slots; the whole page if None."""
    never: bool
    codes: Longs
    """Values of the feature, numbered from 0, −1 for none: (n, L)."""

    @property
    def has(self) -> Mask:
        """Which candidates have the feature: (n,)."""
        has: Mask = np.any(self.codes >= 0, axis=1)
        return has

    @property
    def fit(self) -> Mask:
        """Which candidates a slot rule wants in its slot: (n,)."""
        return ~self.has if self.never else self.has


REAL = 16
"""Bits of a cost: above them are rules that a candidate breaks in the slot, below rules that need another one there."""


class _Rule(Protocol):
    def breaks(self, slot: int) -> tuple[Mask | None, bool]:
        """Which candidates break it in a slot, None if none; and whether they do there, or make a later one do.

        It is the same object as long as it has the same values.
        """

    def place(self, slot: int, at: int) -> None:
        """Put a candidate into a slot."""


class _AtMost:
    def __init__(self, rule: RuleValues, slots: int) -> None:
        self._most, self._within = rule.number, min(rule.within or slots, slots)
        self._codes, self._single = rule.codes, rule.codes.shape[1] == 1
        if self._single:
            self._codes = rule.codes[:, 0]
        self._seen = [0] * (int(rule.codes.max(initial=-1)) + 1)
        self._full = np.zeros(len(self._seen) + 1, dtype=bool)  # the last stands for −1
        self._count = 0  # values that are full
        self._broken: Mask | None = None  # by what is full now
        self._placed: list[list[int]] = []

    def breaks(self, slot: int) -> tuple[Mask | None, bool]:
        """Those with a value that stands often enough already."""
        if not self._count:
            return None, True
        if self._broken is None:
            broken: Mask = self._full.take(self._codes)
            self._broken = broken if self._single else np.any(broken, axis=1)
        return self._broken, True

    def place(self, slot: int, at: int) -> None:
        """Count its values, and those of the item that leaves the window no more."""
        values = [int(self._codes[at])] if self._single else self._codes[at].tolist()
        self._placed.append([value for value in dict.fromkeys(values) if value >= 0])
        self._add(self._placed[slot], 1)
        if slot + 1 >= self._within:
            self._add(self._placed[slot + 1 - self._within], -1)

    def _add(self, values: Sequence[int], times: int) -> None:
        for value in values:
            self._seen[value] += times
            full = self._seen[value] >= self._most
            if full != self._full[value]:
                self._count += 1 if full else -1
                self._full[value], self._broken = full, None


class _AtLeast:
    def __init__(self, rule: RuleValues, slots: int) -> None:
        self._within = min(rule.within or slots, slots)
        self._least, self._has = min(rule.number, self._within), rule.has
        self._lacks, self._all = ~self._has, np.ones_like(self._has)
        self._placed: list[bool] = []

    def breaks(self, slot: int) -> tuple[Mask | None, bool]:
        """Those without, if the next window that ends needs one more than the slots after this one can hold."""
        end = max(slot, self._within - 1)
        short = self._least - sum(self._placed[max(end - self._within + 1, 0) :]) - (end - slot)
        if short <= 0:
            return None, True
        return (self._lacks if short == 1 else self._all), end == slot

    def place(self, slot: int, at: int) -> None:
        """Remember whether it has the feature."""
        self._placed.append(bool(self._has[at]))


class _Slot:
    def __init__(self, rule: RuleValues, others: Sequence[int]) -> None:
        """`others`: all slots that are kept for the same."""
        self._slot, self._slots, self._fit = rule.number - 1, [number - 1 for number in others], rule.fit
        self._unfit, self._free = ~self._fit, int(np.count_nonzero(self._fit))

    def breaks(self, slot: int) -> tuple[Mask | None, bool]:
        """In its slot those that do not fit; before, those that fit and of which none is to spare."""
        if slot == self._slot:
            return self._unfit, True
        if slot < self._slot and slot not in self._slots:
            needed = sum(other > slot for other in self._slots)
            if self._free <= needed:
                return self._fit, False
        return None, True

    def place(self, slot: int, at: int) -> None:
        """One that fits is gone."""
        self._free -= bool(self._fit[at])


class Arrangement:
    """What rules say of the candidates for the next slot."""

    def __init__(self, rules: Sequence[RuleValues], slots: int) -> None:
        self._slot = 0
        self._rules: list[_Rule] = [_open(rule, rules, slots) for rule in rules]
        self._costs: list[tuple[Mask | None, bool, Longs | None]] = [(None, True, None)] * len(rules)

    def costs(self) -> Longs | None:
        """The rules that each candidate would break, the first in the highest bit; None if nobody breaks one: (n,)."""
        costs: Longs | None = None
        for n, rule in enumerate(self._rules):
            broken, now = rule.breaks(self._slot)
            if broken is None:
                continue
            before, then, cost = self._costs[n]
            if cost is None or broken is not before or now != then:
                cost = broken * np.int64(1 << (len(self._rules) - 1 - n + (REAL if now else 0)))
                self._costs[n] = broken, now, cost
            costs = cost if costs is None else costs + cost
        return costs

    def place(self, at: int) -> None:
        """Put a candidate into the slot, and go on to the next."""
        for rule in self._rules:
            rule.place(self._slot, at)
        self._slot += 1

    def broken(self, costs: Longs, at: int) -> list[int]:
        """The rules that a candidate breaks in the slot itself, by its costs."""
        bits = int(costs[at]) >> REAL
        return [n for n in range(len(self._rules)) if bits >> (len(self._rules) - 1 - n) & 1]

    def rule_between(self, costs: Longs | None, at: int, other: int) -> int | None:
        """The first rule for which another candidate was taken, None if none asked for it."""
        if costs is None or costs[at] <= costs[other]:
            return None
        return len(self._rules) - 1 - (int(costs[at] & ~costs[other]).bit_length() - 1) % REAL


def _open(rule: RuleValues, rules: Sequence[RuleValues], slots: int) -> _Rule:
    if rule.kind == "at_most":
        return _AtMost(rule, slots)
    if rule.kind == "at_least":
        return _AtLeast(rule, slots)
    alike = [
        other.number
        for other in rules
        if other.kind == "slot" and other.number <= slots and np.array_equal(other.fit, rule.fit)
    ]
    return _Slot(rule, sorted(set(alike)))


class Scores(Protocol):
    """Scores that depend on what is on the page."""

    score: Doubles
    """Of each candidate for the next slot, −∞ for those on the page: (n,)."""

    def place(self, at: int) -> None:
        """Put a candidate on the page."""


Broken = list[tuple[int, int]]
"""Slots and the rules that they break, both from 0."""


def arrange(rules: Sequence[RuleValues], slots: int, begin: Callable[[], Scores]) -> tuple[Longs, Broken]:
    """Fill slots.

    Args:
        rules: the rules, the first the last to be broken.
        slots: k, at most as many as there are candidates.
        begin: the scores for an empty page.

    Returns:
        The candidate of each slot, (k,), and what could not be kept.
    """
    page, broken = _fill(rules, slots, begin())
    if not broken:
        return page, broken
    least = [unavoidable(rule, slots) for rule in rules]
    counts = Counter(rule for _, rule in broken)
    if len({slot for slot, _ in broken}) == max(least) and all(
        counts[n] == least[n] for n in range(len(rules))
    ):
        return page, broken
    search = _Search(rules, slots, least)
    try:
        guide = search.guide(broken)
        return (page, broken) if guide is None else _fill(rules, slots, begin(), guide)
    except _SearchTooLongError:
        return page, broken


def _fill(
    rules: Sequence[RuleValues], slots: int, scores: Scores, guide: "_Guide | None" = None
) -> tuple[Longs, Broken]:
    """Fill each slot by the least cost in it, then by score; a guide leaves out what makes the whole page cost more."""
    arrangement = Arrangement(rules, slots)
    page, broken = np.empty(slots, dtype=np.int64), list[tuple[int, int]]()
    for slot in range(slots):
        score, real = scores.score, arrangement.costs()
        costs = real if guide is None else guide.costs()
        if costs is None:
            at = int(score.argmax())
        else:
            allowed = np.where(costs, -np.inf, score)
            at = int(allowed.argmax())
            if allowed[at] == -np.inf:  # all that are left break some
                least = costs[score > -np.inf].min()
                at = int(np.where(costs == least, score, -np.inf).argmax())
        if real is not None and real[at]:
            broken += [(slot, rule) for rule in arrangement.broken(real, at)]
        page[slot] = at
        if guide is not None:
            guide.place(at)
        if slot + 1 < slots:
            arrangement.place(at)
            scores.place(at)
    return page, broken


def unavoidable(rule: RuleValues, slots: int) -> int:
    """Slots that break a rule in any page, at least."""
    count, within = len(rule.codes), min(rule.within or slots, slots)
    if rule.kind == "slot":
        return int(rule.number <= slots and not rule.fit.any())
    if rule.kind == "at_least":
        return (slots - within + 1) * bool(np.count_nonzero(rule.has) < min(rule.number, within))
    # of w slots that follow each other no value has more than m that do not break the rule
    values, size = _distinct(rule.codes), np.sort(np.count_nonzero(_distinct(rule.codes) >= 0, axis=1))
    have = np.bincount(values[values >= 0], minlength=1)
    pieces = [min(within, slots - first) for first in range(0, slots, within)]

    def fit(room: int) -> int:
        """Items that do not break it: those of the fewest values first."""
        kept = np.cumsum(size) <= np.minimum(have, room).sum()
        return int(np.count_nonzero(kept))

    whole = fit(sum(min(rule.number, piece) for piece in pieces))
    parts = sum(min(piece, fit(min(rule.number, piece))) for piece in pieces)
    return max(slots - min(whole, parts, count), 0)


class _SearchTooLongError(Exception):
    """More was to be tried than may be."""


@dataclass(frozen=True)
class _TypeRule:
    """A rule as the search sees it."""

    rule: RuleValues
    weight: int
    within: int
    values: list[tuple[int, ...]]
    """Of each type: values that can come too often; or, of other rules, one if it has what is wanted."""


class _Search:
    """Searches pages by the types of their candidates. Costs are whole numbers whose order is that of the docstring."""

    def __init__(self, rules: Sequence[RuleValues], slots: int, least: Sequence[int]) -> None:
        """`least`: how many slots break each rule in any page."""
        base = slots + 1
        self.slots, self.unit, self.checks = slots, base ** len(rules), 0
        columns = [_seen_values(rule) for rule in rules]
        _, first, type_of = np.unique(
            np.concatenate(columns, axis=1), axis=0, return_index=True, return_inverse=True
        )
        order = np.argsort(first)  # types by their best candidate
        self.type_of: Longs = np.argsort(order)[type_of.reshape(-1)]
        first = first[order]
        self.counts = tuple(np.bincount(self.type_of).tolist())
        self.rules = [
            _TypeRule(
                rule,
                base ** (len(rules) - 1 - n),
                min(rule.within or slots, slots),
                [tuple(sorted({v for v in row if v >= 0})) for row in columns[n][first].tolist()],
            )
            for n, rule in enumerate(rules)
        ]
        self._bounds = [(n, one) for n, one in enumerate(self.rules) if one.rule.kind == "at_most"]
        sliding = [r.within - 1 for r in self.rules if r.rule.kind != "slot" and r.within < slots]
        self.tail = max(sliding, default=0)
        self._exact: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        floor = self.unit * max(least) + sum(n * one.weight for n, one in zip(least, self.rules, strict=True))
        self._low: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {(self.counts, ()): floor}
        self._most = MOST_CHECKS if len(self.type_of) <= FEW else MOST_CHECKS // 8

    def guide(self, broken: Broken) -> "_Guide | None":
        """Find the way to a lower cost than that of a page that breaks so much; None if there is none.

        Raises _SearchTooLongError.
        """
        known = self.unit * len({slot for slot, _ in broken}) + sum(
            self.rules[rule].weight for _, rule in broken
        )
        least = self.least(self.counts, (), known)
        return _Guide(self, least) if least < known else None

    def costs(self, kinds: Sequence[int], page: tuple[int, ...]) -> list[int]:
        """What each of some types costs in the next slot."""
        slot, costs = len(page), [0] * len(kinds)
        full = self._full(page, slot)
        for r, one in enumerate(self.rules):
            rule, values = one.rule, one.values
            before = page[max(slot + 1 - one.within, 0) :]
            if rule.kind == "slot":
                broken = [rule.number - 1 == slot and not values[kind] for kind in kinds]
            elif rule.kind == "at_most":
                broken = [not full[r].isdisjoint(values[kind]) for kind in kinds] if full[r] else []
            else:
                short = min(rule.number, one.within) - sum(1 for kind in before if values[kind])
                ends = slot + 1 >= one.within
                broken = [ends and short > bool(values[kind]) for kind in kinds]
            for n, breaks in enumerate(broken):
                costs[n] += breaks * one.weight
        return [cost and cost + self.unit for cost in costs]

    def least(self, counts: tuple[int, ...], page: tuple[int, ...], bound: int) -> int:
        """The least cost of the slots after a page, exact if it is below a bound, else some lower bound of it."""
        if len(page) == self.slots or bound <= 0:
            return 0
        key = counts, page[-self.tail :] if self.tail else ()
        if key in self._exact:
            return self._exact[key]
        low = self._low.get(key)
        if low is None:
            low = self._shortage(counts, page)
        if low >= bound:
            self._low[key] = low
            return low
        kinds = [kind for kind, count in enumerate(counts) if count]
        self.checks += len(kinds)
        if self.checks > self._most:
            raise _SearchTooLongError
        best = bound
        for cost, kind in sorted(zip(self.costs(kinds, page), kinds, strict=True)):
            if cost >= best or best <= low:
                break
            rest = self.least(_without(counts, kind), (*page, kind), best - cost)
            best = min(best, cost + rest)
        if best < bound:
            self._exact[key] = best
        else:
            self._low[key] = bound
        return best

    def _shortage(self, counts: tuple[int, ...], page: tuple[int, ...]) -> int:
        """A cost that is not avoided, since too few are left of what rules need."""
        slot, most = len(page), 0
        for one in self.rules:
            rule, values = one.rule, one.values
            if rule.kind == "slot" and slot < rule.number <= self.slots:
                left = [kind for kind, count in enumerate(counts) if count and values[kind]]
                full = self._full(page, rule.number - 1)
                short = all(
                    any(not full[n].isdisjoint(other.values[kind]) for n, other in self._bounds)
                    for kind in left
                )
            elif rule.kind == "at_least":
                have = sum(count for kind, count in enumerate(counts) if values[kind])
                short = have < self._needed(one, [bool(values[kind]) for kind in page], have)
            else:
                continue
            most = max(most, short * (self.unit + self.rules[-1].weight))
        return most

    def _full(self, page: tuple[int, ...], slot: int) -> dict[int, set[int]]:
        """By rule of `at_most`, the values that a slot can take no more of, whatever comes between."""
        full = {}
        for n, one in self._bounds:
            before = page[max(slot + 1 - one.within, 0) :]
            often = Counter(value for kind in before for value in one.values[kind])
            full[n] = {value for value, count in often.items() if count >= one.rule.number}
        return full

    def _needed(self, one: _TypeRule, has: list[bool], left: int) -> int:
        """How many more must have the feature, at least, if each comes as late as it may; counted up to `left` + 1."""
        needed, within = 0, one.within
        for slot in range(len(has), self.slots):
            end = max(slot, within - 1)
            short = min(one.rule.number, within) - sum(has[max(end - within + 1, 0) :]) - (end - slot)
            has.append(short > 0)
            needed += short > 0
            if needed > left:
                break
        return needed


def _seen_values(rule: RuleValues) -> Longs:
    """What a rule sees of candidates: values that can come too often, or whether they have what it wants: (n, ·)."""
    if rule.kind != "at_most":
        wanted = rule.fit if rule.kind == "slot" else rule.has
        return np.where(wanted, 0, -1)[:, None]
    codes = _distinct(rule.codes)
    often = np.bincount(codes[codes >= 0].reshape(-1), minlength=1) > rule.number
    return np.sort(np.where((codes >= 0) & often[codes], codes, -1), axis=1)


def _distinct(codes: Longs) -> Longs:
    """Each value of a candidate once, −1 in place of others: (n, L)."""
    codes = np.sort(codes, axis=1)
    codes[:, 1:][codes[:, 1:] == codes[:, :-1]] = -1
    return codes


def _without(counts: tuple[int, ...], kind: int) -> tuple[int, ...]:
    return (*counts[:kind], counts[kind] - 1, *counts[kind + 1 :])


class _Guide:
    """Costs of candidates for the next slot, where those that make the whole page cost more are left out."""

    def __init__(self, search: _Search, left: int) -> None:
        self._search, self._left = search, left
        self._counts, self._page = search.counts, tuple[int, ...]()
        self._costs: dict[int, int] = {}

    def costs(self) -> Longs:
        """0 for the candidates that may be taken, and 1 for others: (n,)."""
        search = self._search
        kinds = [kind for kind, count in enumerate(self._counts) if count]
        self._costs = dict(zip(kinds, search.costs(kinds, self._page), strict=True))
        for cost in sorted(set(self._costs.values())):
            allowed = [kind for kind in kinds if self._costs[kind] == cost and self._completes(kind, cost)]
            if allowed:
                return 1 - np.isin(search.type_of, allowed).astype(np.int64)
        raise _SearchTooLongError  # never: some page costs what is left

    def _completes(self, kind: int, cost: int) -> bool:
        left = self._left - cost
        if left < 0:
            return False
        rest = self._search.least(_without(self._counts, kind), (*self._page, kind), left + 1)
        return rest <= left

    def place(self, at: int) -> None:
        """Put a candidate into the slot."""
        kind = int(self._search.type_of[at])
        self._left -= self._costs[kind]
        self._counts, self._page = _without(self._counts, kind), (*self._page, kind)

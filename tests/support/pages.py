"""Pages by trying all of them, and rules as anybody would count them: the reference for `corank.core.page_rules`."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from corank.core.page_rules import RuleValues
from corank.core.types import Doubles


def slots_that_break(rule: RuleValues, page: Sequence[int]) -> list[bool]:
    """Whether each slot of a page breaks a rule."""
    within = min(rule.within or len(page), len(page))
    values = [{v for v in rule.codes[n].tolist() if v >= 0} for n in page]
    broken = []
    for slot in range(len(page)):
        window = values[max(0, slot - within + 1) : slot + 1]
        if rule.kind == "at_most":
            broken.append(any(sum(v in one for one in window) > rule.number for v in values[slot]))
        elif rule.kind == "at_least":
            broken.append(slot >= within - 1 and sum(map(bool, window)) < min(rule.number, within))
        else:
            broken.append(slot == rule.number - 1 and bool(values[slot]) == rule.never)
    return broken


def cost(rules: Sequence[RuleValues], page: Sequence[int]) -> tuple[int, ...]:
    """Slots that break some rule, then those that break each."""
    by_rule = [slots_that_break(rule, page) for rule in rules]
    return (sum(map(any, zip(*by_rule, strict=True))), *map(sum, by_rule))


def least_cost(rules: Sequence[RuleValues], count: int, slots: int) -> tuple[int, ...]:
    """That of all pages."""
    return min(cost(rules, page) for page in permutations(range(count), slots))


def greedy_page(rules: Sequence[RuleValues], value: Doubles, slots: int) -> tuple[int, ...]:
    """Among the pages that keep all rules the one whose slots have, one after the other, the best value."""
    pages = [page for page in permutations(range(len(value)), slots) if not any(cost(rules, page))]
    return min(pages, key=lambda page: [(-value[n], n) for n in page])


def random_rule(rng: np.random.Generator, count: int, slots: int) -> RuleValues:
    """Draw a rule, and what candidates have."""
    kind = rng.choice(["at_most", "at_least", "slot"], p=[0.5, 0.25, 0.25])
    codes = rng.integers(-1, rng.integers(1, 5), (count, rng.choice([1, 1, 2, 3])))
    if rng.random() < 0.3:
        codes = np.where(rng.random((count, 1)) < rng.random(), 0, -1)
    if kind == "slot":
        return RuleValues("slot", int(rng.integers(1, slots + 2)), None, bool(rng.random() < 0.5), codes)
    within = None if rng.random() < 0.4 else int(rng.integers(1, slots + 3))
    return RuleValues(kind, min(int(rng.integers(1, 3)), within or 2), within, False, codes)

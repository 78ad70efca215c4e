from itertools import product

import numpy as np
import pytest

from corank.core.page import PageRule
from corank.core.page_conflicts import find_conflict


def is_kept(rule: PageRule, page: tuple[int, ...]) -> bool:
    if rule.slot is not None:
        return bool(page[rule.slot - 1]) != rule.never
    within = min(rule.within or len(page), len(page))
    sums = [sum(page[end - within : end]) for end in range(within, len(page) + 1)]
    if rule.at_most is not None:
        return max(sums) <= rule.at_most
    return min(sums) >= min(rule.at_least or 0, within)


def draw_rule(rng: np.random.Generator, slots: int) -> PageRule:
    if rng.random() < 0.4:
        return PageRule(slot=int(rng.integers(1, slots + 1)), of="ad", never=bool(rng.random() < 0.5))
    number, within = int(rng.integers(1, 4)), int(rng.integers(3, slots + 2))
    key = "at_most" if rng.random() < 0.5 else "at_least"
    return PageRule(of="ad", within=within, **{key: number})


def test_a_conflict_is_found_exactly_where_no_page_keeps_all_rules() -> None:
    rng, slots, conflicts = np.random.default_rng(0), 6, 0
    pages = [*product((0, 1), repeat=slots)]
    for _ in range(150):
        rules = [draw_rule(rng, slots) for _ in range(rng.integers(1, 6))]
        possible = any(all(is_kept(rule, page) for rule in rules) for page in pages)
        found = find_conflict(rules, slots)
        assert (not found) == possible
        conflicts += not possible
        # each of those named is needed for the conflict
        for left_out in found:
            rest = [rule for rule in found if rule is not left_out]
            assert any(all(is_kept(rule, page) for rule in rest) for page in pages)
    assert 20 < conflicts < 130


@pytest.mark.parametrize("slots", [1, 500])
def test_a_page_of_one_slot_or_many(slots: int) -> None:
    new, never = PageRule(at_least=1, of="new", within=10), PageRule(slot=1, of="new", never=True)
    assert find_conflict([new, never], slots) == ([new, never] if slots == 1 else [])

"""Rules of a page that contradict each other, whatever the candidates are.

Of one feature, let P[t] be the number of items among the first t slots that have it. Each rule bounds a difference of
two of them, so that a page can keep all rules if and only if these differences have a solution: if the graph of the
bounds has no cycle of negative length (Bellman 1958).

Letters: k slots · E bounds.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from corank.core.page import PageRule


def find_conflict(rules: Sequence[PageRule], slots: int) -> list[PageRule]:
    """Find rules that no page can keep together.

    Args:
        rules: of one feature; `at_most` only if it counts all items that have the feature, as of a number.
        slots: k.

    Returns:
        As few as contradict each other; none if a page can keep all.

    Example:
        >>> rules = [PageRule(slot=1, of="ad"), PageRule(at_least=1, of="new"), PageRule(slot=1, of="ad", never=True)]
        >>> [str(rule) for rule in find_conflict([rules[0], rules[2]], 10)]
        ['slot 1 is ad', 'slot 1 never ad']
    """
    if _fit_together(rules, slots):
        return []
    left = list(rules)
    for rule in rules:
        fewer = [other for other in left if other is not rule]
        if not _fit_together(fewer, slots):
            left = fewer
    return left


def _fit_together(rules: Sequence[PageRule], slots: int) -> bool:
    """Whether the bounds have a solution; shortest paths are one, if they exist."""
    begin, end, length = np.array([*_bounds(rules, slots)], dtype=np.int64).T
    distance = np.zeros(slots + 1, dtype=np.int64)
    for _ in range(slots + 1):
        shorter = distance.copy()
        np.minimum.at(shorter, end, distance[begin] + length)
        if np.array_equal(shorter, distance):
            return True
        distance = shorter
    return False


def _bounds(rules: Sequence[PageRule], slots: int) -> Iterator[tuple[int, int, int]]:
    """Bounds (a, b, m): P[b] ≤ P[a] + m."""
    for slot in range(1, slots + 1):
        yield slot - 1, slot, 1
        yield slot, slot - 1, 0
    for rule in rules:
        if rule.slot is not None:
            yield (rule.slot - 1, rule.slot, 0) if rule.never else (rule.slot, rule.slot - 1, -1)
            continue
        within = min(rule.within or slots, slots)
        for slot in range(within, slots + 1):
            if rule.at_most is not None:
                yield slot - within, slot, rule.at_most
            if rule.at_least is not None:
                yield slot, slot - within, -min(rule.at_least, within)

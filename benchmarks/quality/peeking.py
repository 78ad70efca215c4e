"""How often experiments without a difference find one, if somebody looks again and again and stops at the first.

Users with rates of their own come back; a share of them are of version a. Looked at are the intervals of
`corank compare-served`, `sequential`, and ordinary 95 % intervals with users as clusters, `fixed`, at the same moments.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from benchmarks import harness
from corank.core.types import Doubles, Longs, Mask
from corank_serve.rollout.sequential import (
    ENOUGH_USERS,
    NORMAL,
    ArmMean,
    SequentialTest,
    compare_arms,
    look_ends,
)

USERS, ROWS = 1500, 12_000
ALPHA = 0.05
SHARES, EFFECTS = (0.3, 0.1), (0.02, 0.1, 0.3)


def experiments(count: int, share: float) -> Iterator[tuple[Longs, Mask, Doubles]]:
    """User, side and click of rows in the order of their time."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        user = np.minimum(rng.exponential(USERS / 4, ROWS).astype(np.int64), USERS - 1)
        is_a, rate = rng.random(USERS) < share, rng.beta(1.5, 10, USERS)
        yield user, is_a[user], (rng.random(ROWS) < rate[user]).astype(np.float64)


def finds_by_sequence(user: Longs, is_a: Mask, clicked: Doubles, effect: float) -> bool:
    """Whether the interval of any look excludes 0."""
    time = np.arange(ROWS, dtype=np.int64)
    looks = compare_arms(time, user, is_a, clicked, SequentialTest(ALPHA, effect))
    return any(one["low"] is not None and not one["low"] <= 0 <= one["high"] for one in looks)


def finds_by_fixed(user: Longs, is_a: Mask, clicked: Doubles) -> bool:
    """Whether an ordinary interval does so at any look."""
    for end in look_ends(ROWS):
        a, b = (
            ArmMean.of(clicked[:end][side], user[:end][side], USERS) for side in (is_a[:end], ~is_a[:end])
        )
        enough = min(a.users, b.users) >= ENOUGH_USERS
        if enough and abs(a.mean - b.mean) > NORMAL * (a.variance + b.variance) ** 0.5:
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--experiments", type=int, default=300)
    options = parser.parse_args()
    figures: dict[str, harness.Figure] = {}
    for share in SHARES:
        made = list(experiments(options.experiments, share))
        figures[f"fixed@{share:g}"] = float(np.mean([finds_by_fixed(*one) for one in made]))
        for effect in EFFECTS:
            misled = float(np.mean([finds_by_sequence(*one, effect) for one in made]))
            figures[f"sequential@{share:g}.effect_{effect:g}"] = misled
    aims = {name: ("<=", ALPHA) for name in figures if name.startswith("sequential")}
    harness.report("peeking", figures, aims, options.json)


if __name__ == "__main__":
    main()

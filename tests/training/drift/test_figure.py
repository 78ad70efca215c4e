"""The population stability index, against its formula and against chance."""

import numpy as np
import pytest

from corank.training.drift.figure import count_numbers, stability_index

MANY = 10**12
"""So many independent values that chance gives nothing."""


def test_it_is_that_of_the_formula() -> None:
    before, now = np.array([50, 30, 20]), np.array([20, 30, 50])
    p, q = before / 100, now / 100
    expected = sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True))
    assert stability_index(before, now, MANY, MANY) == pytest.approx(expected)
    assert stability_index(now, before, MANY, MANY) == pytest.approx(expected)
    assert stability_index(before, before * 7, MANY, MANY) == 0


@pytest.mark.parametrize("bins", [3, 12, 22])
def test_chance_alone_gives_nothing_on_average(bins: int) -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(bins, 5.0))
    pairs = [(rng.multinomial(1000, shares), rng.multinomial(300, shares)) for _ in range(200)]
    raw = np.mean([stability_index(one, other, MANY, MANY) for one, other in pairs])
    assert raw == pytest.approx((bins - 1) * (1 / 1000 + 1 / 300), rel=0.25)
    less = np.mean([stability_index(one, other, 1000, 300) for one, other in pairs])
    assert less < raw / 2


def test_numbers_are_counted_between_quantiles() -> None:
    numbers = np.append(np.arange(1, 101), [0.0]).astype(np.float32)
    others = np.array([1e9, -1e9], dtype=np.float32)
    before, now = count_numbers(numbers, others, null=0.0)
    assert before.tolist() == [1, *[10] * 10]
    assert now.tolist() == [0, 1, *[0] * 8, 1]

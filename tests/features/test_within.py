"""Features within a request: a number of a candidate beside that of the others."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corank.features.kinds.number import NumberFeature
from corank.features.kinds.share import ShareFeature
from corank.features.kinds.within import ComparingFeature, WithinFeature
from corank.features.operands import OperandRows, Operands
from corank.features.priors import PointInTime, PriorSnapshots
from corank.features.schema import Schema
from tests.support.configs import refused, shop

NAN = math.nan
RANK, RATIO = (WithinFeature(kind="within", of="price", measure=m) for m in ("rank", "ratio"))
SHARE = ShareFeature(kind="share", of="price")
SCHEMA = Schema(
    {
        "price": NumberFeature(kind="number", side="item", input=False),
        "rank": RANK,
        "ratio": RATIO,
        "share": SHARE,
    }
)
PRICES = [[3.0, 1.0, NAN, 3.0, 8.0], [], [NAN, NAN], [5.0], [0.0, -2.0, 0.0, 2.0], [-1.0, -0.0, 0.0]]


def pairs(prices: list[list[float]]) -> OperandRows:
    """Candidates of some requests, in another order than that of the requests, of items in yet another."""
    flat = np.array([price for request in prices for price in request])
    of = np.repeat(np.arange(len(prices)), [len(request) for request in prices])
    item = np.random.default_rng(0).permutation(len(flat))
    items = np.empty(len(flat))
    items[item] = flat
    query = Operands(len(prices), {}, {}, {})
    return OperandRows.pairs(
        SCHEMA.operand_placements, query, Operands(len(flat), {}, {}, {"price": items}), of, item
    )


def derive(feature: ComparingFeature, rows: OperandRows) -> list[float]:
    when = PointInTime("within", np.zeros(rows.count, np.int64), PriorSnapshots({}, "UTC"))
    values: list[float] = feature.derive(rows, when).tolist()
    return values


def slow_rank(price: float, among: list[float]) -> float:
    known = [one for one in among if not math.isnan(one)]
    shares = [sum(one < price for one in known), sum(one <= price for one in known)]
    return NAN if math.isnan(price) else sum(shares) / (2 * len(known))


def slow_ratio(price: float, among: list[float]) -> float:
    known = [one for one in among if not math.isnan(one)]
    median = float(np.median(known)) if known else NAN
    return NAN if math.isnan(price) or median == 0 else price / median


def slow_share(price: float, among: list[float]) -> float:
    whole = sum(one for one in among if one > 0)
    return price / whole if price >= 0 and whole else NAN


Slow = Callable[[float, list[float]], float]
SLOW: list[tuple[ComparingFeature, Slow]] = [(RANK, slow_rank), (RATIO, slow_ratio), (SHARE, slow_share)]


@pytest.mark.parametrize(("feature", "slow"), SLOW)
@pytest.mark.parametrize("seed", range(4))
def test_a_number_is_compared_with_all_candidates_of_its_request(
    feature: ComparingFeature, slow: Slow, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    drawn = [rng.choice([*range(-3, 6), NAN], size=rng.integers(0, 9)).tolist() for _ in range(30)]
    for prices in (PRICES, drawn):
        expected = [slow(price, request) for request in prices for price in request]
        np.testing.assert_array_equal(derive(feature, pairs(prices)), expected)


@pytest.mark.parametrize(("feature", "slow"), SLOW)
def test_a_pair_beyond_the_log_is_compared_as_one_candidate_more(
    feature: ComparingFeature, slow: Slow
) -> None:
    """Several of one request do not affect each other."""
    price = np.array([2.0, 3.0, 100.0, -7.0, NAN, 0.0])
    request, row = (part.ravel() for part in np.meshgrid(np.arange(len(PRICES)), np.arange(len(price))))
    items, query = Operands(len(price), {}, {}, {"price": price}), Operands(len(PRICES), {}, {}, {})
    beyond = OperandRows.pairs(
        SCHEMA.operand_placements, query, items, request, row, candidates=pairs(PRICES)
    )
    expected = [slow(price[n], [*PRICES[r], price[n]]) for r, n in zip(request, row, strict=True)]
    np.testing.assert_array_equal(derive(feature, beyond), expected)


AGE = "features.age={side: user, kind: number}"
SHARED = ["features.price={side: item, kind: number}", "features.share={kind: share, of: price}"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["features.rank={kind: within, of: brand}"],
            "features.rank.of: a within is of a number that differs",
        ),
        (
            [AGE, "features.old={kind: within, of: age}"],
            "features.old.of: 'age' is a user feature, the same for all",
        ),
        (
            [*SHARED, "features.more={kind: within, of: share}"],
            "features.more.of: a within is of a number that",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: list[str], message: str) -> None:
    path = shop(tmp_path)
    assert message in refused(path, *changes)

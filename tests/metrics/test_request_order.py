"""Metrics of the order within a request, against loops over all orders of tied candidates, and scikit-learn."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, groupby, permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.core.types import Doubles, Longs
from corank.metrics.measure import RatioMeasure
from corank.metrics.point import Labels, gauc, gauc_user_day
from corank.metrics.request_order import hit_at, mrr, ndcg_at, request_auc

List = list[tuple[float, int]]
"""Score and label of a request's candidates."""
OfOrder = Callable[[Sequence[int]], float]
"""Labels, best first → value."""


def reciprocal(order: Sequence[int]) -> float:
    return 1 / (1 + order.index(1))


def hit(order: Sequence[int], k: int) -> float:
    return float(1 in order[:k])


def gain(order: Sequence[int], k: int) -> float:
    dcg, best = (
        sum(y / math.log2(n + 2) for n, y in enumerate(ranking[:k]))
        for ranking in (order, sorted(order)[::-1])
    )
    return dcg / best


def won(order: Sequence[int]) -> float:
    pairs = [(a, b) for a in range(len(order)) for b in range(len(order)) if order[a] > order[b]]
    return sum(a < b for a, b in pairs) / len(pairs)


METRICS: dict[str, tuple[Callable[..., RatioMeasure], OfOrder, int]] = {
    "auc": (request_auc, won, 0),
    "mrr": (mrr, reciprocal, 0),
    "ndcg@1": (partial(ndcg_at, k=1), partial(gain, k=1), 0),
    "ndcg@2": (partial(ndcg_at, k=2), partial(gain, k=2), 0),
    "ndcg@5": (partial(ndcg_at, k=5), partial(gain, k=5), 0),
    "hit@1": (partial(hit_at, k=1), partial(hit, k=1), 1),
    "hit@3": (partial(hit_at, k=3), partial(hit, k=3), 3),
}
"""By name: metric, its value of one order, and the rows that a request must exceed."""


def over_orders(one: List, of_order: OfOrder) -> float:
    """The mean of a value over all orders of a request in which no lower score precedes a higher one."""
    ties = [
        [label for _, label in group]
        for _, group in groupby(sorted(one, reverse=True), key=lambda row: row[0])
    ]
    orders = [[*chain(*parts)] for parts in product(*(permutations(tie) for tie in ties))]
    return float(np.mean([of_order(order) for order in orders]))


def rows_of(lists: Sequence[List]) -> tuple[Longs, Longs, Doubles, Labels]:
    """User, request, score and label of requests, each of a user of its own, their rows shuffled."""
    request = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    score = np.array([s for one in lists for s, _ in one], dtype=np.float64)
    label = np.array([y for one in lists for _, y in one], dtype=np.int8)
    mixed = np.random.default_rng(0).permutation(len(request))
    return request[mixed] * 7, request[mixed] + 100, score[mixed], label[mixed]


@pytest.mark.parametrize("name", METRICS)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-1, 1)), max_size=5), max_size=4
    )
)
def test_metric_is_the_mean_over_all_orders_of_tied_candidates(name: str, lists: list[List]) -> None:
    metric, of_order, above = METRICS[name]
    known = [[row for row in one if row[1] >= 0] for one in lists]
    counting = [one for one in known if len({label for _, label in one}) == 2 and len(one) > above]
    measure = metric(*rows_of(lists))
    assert measure.n == len(counting)
    if not counting:
        assert measure.value() is measure.random_value() is None
        return
    expected = np.mean([over_orders(one, of_order) for one in counting])
    assert measure.value() == pytest.approx(expected, abs=1e-12)
    tied = np.mean([over_orders([(0.0, label) for _, label in one], of_order) for one in counting])
    assert measure.random_value() == pytest.approx(tied, abs=1e-12)


def many(generator: np.random.Generator, rows: int = 900) -> tuple[Longs, Longs, Doubles, Labels, Doubles]:
    """User, request, score with ties, label and weight of requests of about ten rows."""
    request = np.sort(generator.integers(rows // 10, size=rows))
    label = (generator.random(rows) < 0.2).astype(np.int8)
    score = generator.integers(20, size=rows) / 20
    return request % 23, request, score, label, generator.integers(1, 4, size=rows).astype(float)


def test_gauc_by_user_and_day_is_the_weighted_mean_of_their_auc() -> None:
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(4)
    user, request, score, label, weight = many(generator)
    label[generator.random(len(label)) < 0.1] = -1
    day = 20_000 + request % 4
    over, under, groups = 0.0, 0.0, 0
    for person, one in {*zip(user.tolist(), day.tolist(), strict=True)}:
        mine = (user == person) & (day == one) & (label >= 0)
        if len(set(label[mine].tolist())) == 2:
            over += weight[mine].sum() * roc_auc_score(label[mine], score[mine], sample_weight=weight[mine])
            under += weight[mine].sum()
            groups += 1
    measure = gauc_user_day(user, day, score, label, weight)
    assert measure.value() == pytest.approx(over / under, abs=1e-12)
    assert (measure.n, measure.random_value()) == (groups, pytest.approx(0.5))
    one_day = gauc_user_day(user, np.full(len(user), 3), score, label, weight)
    assert one_day.value() == gauc(user, score, label, weight).value()

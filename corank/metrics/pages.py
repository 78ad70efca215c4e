"""Metrics of pages: what they are worth, how much differs on them, and how their items cover the catalogue.

Importing the module enters them in the table.

Letters: R requests · C candidates · V values of a column · P pairs of a user and an item shown · B resamples.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from corank.core.lazy import lazy
from corank.core.types import Doubles, Longs, Mask, Numbers
from corank.metrics.measure import Keys, RatioMeasure
from corank.metrics.metric import add_metric
from corank.metrics.off_policy import RandomBucket
from corank.metrics.requests import Requests

special = lazy("scipy.special")


def satiated(requests: Requests, truth: Numbers, category: Longs, slot: Longs, share: float) -> Doubles:
    """Compute what a candidate is worth on its page to users who tire: p · (1 − share)^(alike above it): (C,).

    Args:
        requests: how the candidates lie in requests.
        truth: p, what it is worth alone: (C,).
        category: by which it is alike: (C,).
        slot: its slot from 0, −1 where it is not shown: (C,).
        share: by how much its probability falls with each one above of the same category.
    """
    shown = np.flatnonzero(slot >= 0)
    request = requests.request_of[shown]
    order = np.lexsort((slot[shown], category[shown], request))
    shown, request, alike = shown[order], request[order], category[shown][order]
    begins = np.ones(len(shown), dtype=bool)
    begins[1:] = (request[1:] != request[:-1]) | (alike[1:] != alike[:-1])
    starts = np.flatnonzero(begins)
    above = np.arange(len(shown)) - np.repeat(starts, np.diff(starts, append=len(shown)))
    worth = truth.astype(np.float64)
    worth[shown] *= (1 - share) ** above
    return worth


def page_sum(requests: Requests, listed: Mask, value: Numbers) -> RatioMeasure:
    """Average the sum of a value over what a page shows.

    Eligible: requests with a page. Random order: the mean value of the candidates times the page's slots.

    Args:
        requests: how the candidates lie in requests.
        listed: whether a candidate is shown: (C,).
        value: of each candidate: (C,).
    """
    shown, size = requests.sums(listed), np.maximum(requests.size, 1)
    drawn = requests.sums(value) / size * shown
    return requests.mean(requests.sums(np.where(listed, value, 0.0)), shown > 0, drawn)


def page_clicks(
    requests: Requests, listed: Mask, clicked: Mask, exposed: Mask, propensity: Numbers
) -> RatioMeasure:
    """Estimate the clicks of a page by inverse propensities: Σ yᵢ/πᵢ over what it shows, a mean over the random bucket.

    A click is taken to depend on the request and the candidate alone: not on what else is shown.

    Args:
        requests: this and the others as in `corank.metrics.off_policy.ips_click_rate`.
        listed: see above.
        clicked: see above.
        exposed: see above.
        propensity: see above.
    """
    bucket = RandomBucket.of(requests, exposed, propensity)
    measure = requests.mean(requests.sums(bucket.inverse * clicked * listed), bucket.inside)
    return replace(measure, reason=bucket.why_unjudged(listed))


@dataclass(frozen=True)
class NearClicksMeasure:
    """Clicks of pages by what is expected of each candidate alone, and what its like on the page take from it."""

    user: Keys
    """(R,)"""
    expected: Doubles
    """What is expected of the page of a request, by how many others are alike: (R, M)."""
    drawn: Doubles
    """What is expected of what the bucket exposed: (R, M)."""
    request: Longs
    """Of each click in the bucket: (K,)."""
    alike: Longs
    """How many others were alike: (K,)."""
    kind: Longs
    """Its row of `chance`: (K,)."""
    chance: Doubles
    """At what probability so many were drawn to a candidate: (kinds, M)."""

    @property
    def n(self) -> int:
        """Requests of the bucket."""
        return int(np.count_nonzero(self.drawn.any(axis=1)))

    def value(self, counts: Doubles | None = None) -> float | None:
        """Compute it, each request counted `counts` (R,) times; None of fewer clicks than LEAST_CLICKS."""
        times = np.ones(len(self.user)) if counts is None else counts
        weight, most = times[self.request], self.chance.shape[1]
        shape = self.chance.shape
        clicks = np.bincount(self.kind * most + self.alike, weight, self.chance.size).reshape(shape)
        by_alike, by_kind = clicks.sum(axis=0), clicks.sum(axis=1)
        if len(self.request) < LEAST_CLICKS or not by_alike[0]:
            return None
        left = np.ones(most)
        for _ in range(ROUNDS):
            chance = self.chance * left
            expected = by_kind @ (chance / np.maximum(chance.sum(axis=1, keepdims=True), TINY))
            left = left * by_alike / np.maximum(expected, TINY)
            left = left / left[0]
        for m in np.flatnonzero(by_alike == 0).tolist():  # no click tells of so many: they count as one less
            left[m] = left[m - 1]
        scale = by_alike.sum() / (times @ self.drawn @ left)
        return float(scale * (times @ self.expected @ left) / times.sum())

    def resample(self, code: NDArray[np.intp], counts: NDArray[np.uint8]) -> Doubles:
        """Compute it in resamples of its users."""
        drawn = [self.value(counts[code, b].astype(np.float64)) for b in range(counts.shape[1])]
        return np.array([np.nan if one is None else one for one in drawn])


MOST_ALIKE = 3
"""From so many on, those that are alike to a candidate count as so many."""
LEAST_CLICKS = 500
"""Of the bucket: with a few hundred, the interval is too narrow for what chance does to f."""
ROUNDS, TINY = 50, 1e-300
"""Rounds in which f is fitted."""


def page_near_clicks(
    requests: Requests,
    listed: Mask,
    clicked: Mask,
    exposed: Mask,
    propensity: Numbers,
    expected: Numbers,
    column: tuple[Longs, Longs],
) -> NearClicksMeasure:
    """Estimate clicks of pages whose items take clicks from those that are alike: c Σ qᵢ f(mᵢ) over what a page shows.

    m is how many others on the page have the candidate's value of a column, counted up to MOST_ALIKE; q is what the
    last stage expects of it, f(m) the share of its clicks that is left, f(0) = 1, and c = Σ y / Σ q f over the bucket.

    f is of the random bucket's clicks alone: of n candidates, a of the value, k were drawn evenly, so that m is
    hypergeometric, whatever the candidate is worth. The clicks with m alike are Σ P(m) f(m) / Σⱼ P(j) f(j), summed over
    all clicks: the f that solves it is the one of the greatest likelihood, given what was clicked. No model has a part
    in f, as in a case-only design (Piegorsch, Weinberg and Taylor, 1994); q orders what is compared. Requests count
    whose propensities are all the same; of a column of lists there is no value.

    Args:
        requests: this and the next four as in `corank.metrics.off_policy.ips_click_rate`.
        listed: see above.
        clicked: see above.
        exposed: see above.
        propensity: see above.
        expected: q, the last stage's calibrated probability of a click: (C,).
        column: as in `distinct_values`.
    """
    drawn = exposed & _evenly_drawn(requests, exposed, propensity)[requests.request_of]
    single = len(np.unique(column[1])) == len(column[1])
    alike, among = (_count_alike(requests, shown, column) for shown in (drawn, np.ones_like(drawn)))

    def sums(shown: Mask, alike: Longs) -> Doubles:
        """What is expected of what is shown, by request and how many are alike: (R, M)."""
        at, most = np.flatnonzero(shown), MOST_ALIKE + 1
        bins = requests.request_of[at] * most + np.minimum(alike[at], MOST_ALIKE)
        of_bins: Doubles = np.bincount(bins, expected[at], len(requests.size) * most).astype(np.float64)
        return of_bins.reshape(-1, most)

    at = np.flatnonzero(drawn & clicked) if single else np.empty(0, dtype=np.int64)
    request = requests.request_of[at].astype(np.int64)
    shown = requests.sums(drawn)[request].astype(np.int64)
    kinds, kind = np.unique(np.stack([requests.size[request], shown, among[at]]), axis=1, return_inverse=True)
    return NearClicksMeasure(
        requests.user,
        sums(listed, _count_alike(requests, listed, column)),
        sums(drawn, alike),
        request,
        np.minimum(alike[at], MOST_ALIKE),
        kind.reshape(-1).astype(np.int64),
        _chance_of_alike(*kinds),
    )


def _evenly_drawn(requests: Requests, exposed: Mask, propensity: Numbers) -> Mask:
    """Whether all that a request exposed was drawn at one probability: (R,)."""
    known = exposed & ~np.isnan(propensity)
    low, high = np.full(len(requests.size), np.inf), np.zeros(len(requests.size))
    np.minimum.at(low, requests.request_of[known], propensity[known])
    np.maximum.at(high, requests.request_of[known], propensity[known])
    whole: Mask = (requests.sums(known) == requests.sums(exposed)) & (high > 0) & (high <= low * 1.0001)
    return whole


def _chance_of_alike(size: Longs, shown: Longs, among: Longs) -> Doubles:
    """At what probability m of `among` alike are drawn to a candidate, by m, the last for more, too: (n, M)."""
    others, more, m = size[:, None] - 1, shown[:, None] - 1, np.arange(MOST_ALIKE)
    ways = _log_ways(among[:, None], m) + _log_ways(others - among[:, None], more - m)
    chance = np.exp(ways - _log_ways(others, more))
    rest = np.maximum(1 - chance.sum(axis=1, keepdims=True), 0.0)
    return np.concatenate([chance, rest], axis=1)


def _log_ways(of: Longs, some: Longs) -> Doubles:
    """The logarithm of the number of ways to take some of so many, −∞ where there is none."""
    of, some = np.broadcast_arrays(of, some)
    possible = (some >= 0) & (some <= of)
    taken, rest = (np.where(possible, count, 0) for count in (some, of - some))
    ways = special.gammaln(of + 1) - special.gammaln(taken + 1) - special.gammaln(rest + 1)
    return np.where(possible, ways, -np.inf)


def _count_alike(requests: Requests, shown: Mask, column: tuple[Longs, Longs]) -> Longs:
    """How many others that are shown have the value of each candidate that is shown: (C,)."""
    codes, candidate = column
    on_page = shown[candidate]
    candidate = candidate[on_page]
    place = np.stack([requests.request_of[candidate], codes[on_page]])
    _, value, count = np.unique(place, axis=1, return_inverse=True, return_counts=True)
    alike: Longs = np.bincount(candidate, count[value.reshape(-1)] - 1, len(shown)).astype(np.int64)
    return alike


def list_distance(requests: Requests, distance: Doubles) -> RatioMeasure:
    """Average the intra-list distance, the mean of 1 − similarity of two on a page. Eligible: pages of two or more.

    Source: Smyth and McClave, Similarity vs. Diversity, 2001; Ziegler and others, 2005.

    Args:
        requests: how the candidates lie in requests.
        distance: of each page, NaN where there is none: (R,).
    """
    known = ~np.isnan(distance)
    return requests.mean(np.where(known, distance, 0.0), known)


def _value_counts(requests: Requests, listed: Mask, column: tuple[Longs, Longs]) -> tuple[Longs, Doubles]:
    """Requests, and how often each value is on their pages, value by value: (V',), (V',)."""
    codes, candidate = column
    shown = listed[candidate]
    request, codes = requests.request_of[candidate[shown]], codes[shown]
    pairs, counts = np.unique(np.stack([request, codes]), axis=1, return_counts=True)
    return pairs[0].astype(np.int64), counts.astype(np.float64)


def distinct_values(requests: Requests, listed: Mask, column: tuple[Longs, Longs]) -> RatioMeasure:
    """Average the number of distinct values of a column on a page. Eligible: requests with a page.

    Args:
        requests: how the candidates lie in requests.
        listed: whether a candidate is shown: (C,).
        column: values, numbered, and the candidate of each: (V,), (V,); a list has several.
    """
    request, _ = _value_counts(requests, listed, column)
    distinct = np.bincount(request, minlength=len(requests.size)).astype(np.float64)
    return requests.mean(distinct, requests.sums(listed) > 0)


def value_entropy(requests: Requests, listed: Mask, column: tuple[Longs, Longs]) -> RatioMeasure:
    """Average the entropy of a column's values on a page, in bits: −Σ s log₂ s over the share s of each value.

    Eligible: pages with a value. Arguments as in `distinct_values`.
    """
    request, counts = _value_counts(requests, listed, column)
    whole: Doubles = np.bincount(request, counts, len(requests.size)).astype(np.float64)
    share = counts / whole[request]
    entropy: Doubles = np.bincount(request, -share * np.log2(share), len(requests.size)).astype(np.float64)
    return requests.mean(entropy, whole > 0)


def broken_slots(requests: Requests, listed: Mask, broken: Doubles) -> RatioMeasure:
    """Share of the slots of all pages that break a rule.

    Args:
        requests: how the candidates lie in requests.
        listed: whether a candidate is shown: (C,).
        broken: slots of each page that do: (R,).
    """
    shown = requests.sums(listed)
    return RatioMeasure.of(requests.user, broken, shown, n=int((shown > 0).sum()))


@dataclass(frozen=True)
class CatalogueMeasure:
    """How the items of all pages spread over the catalogue."""

    what: Literal["coverage", "gini"]
    user: Keys
    """(P,)"""
    item: Longs
    """(P,)"""
    catalogue: int
    """Number of items."""

    @property
    def n(self) -> int:
        """Items that were shown, each time counted."""
        return len(self.user)

    def value(self, counts: Doubles | None = None) -> float | None:
        """Compute it, each pair counted `counts` (P,) times; None if nothing was shown."""
        times = np.bincount(self.item, counts, self.catalogue)
        if not times.sum():
            return None
        if self.what == "coverage":
            return float(np.count_nonzero(times) / self.catalogue)
        times.sort()
        rank = np.arange(1, self.catalogue + 1)
        return float((2 * rank - self.catalogue - 1) @ times / (self.catalogue * times.sum()))

    def resample(self, code: NDArray[np.intp], counts: NDArray[np.uint8]) -> Doubles:
        """Compute it in resamples of its users, and move these to the value of all: a resample shows fewer items."""
        drawn = [self.value(counts[code, b].astype(np.float64)) for b in range(counts.shape[1])]
        values = np.array([np.nan if one is None else one for one in drawn])
        exact = self.value()
        return values if exact is None else values + (exact - np.nanmean(values))


def catalogue_spread(
    requests: Requests, listed: Mask, item: Longs, catalogue: int, what: Literal["coverage", "gini"]
) -> CatalogueMeasure:
    """Coverage: the share of the catalogue that some page shows. Gini: how unequal items are shown, from 0 to 1.

    Gini is Σ (2i − n − 1) xᵢ / (n Σ x) over the n items of the catalogue, x ascending: how often each was shown.

    Args:
        requests: how the candidates lie in requests.
        listed: whether a candidate is shown: (C,).
        item: of each candidate: (C,).
        catalogue: number of items.
        what: which of both.
    """
    shown = np.flatnonzero(listed)
    user = requests.user[requests.request_of[shown]]
    return CatalogueMeasure(what, user, item[shown].astype(np.int64), catalogue)


_LISTED = ("requests", "listed")
_page = partial(add_metric, "page")
_TRUE = "The true value of a page's items, given the page. Of simulated worlds."
_page("higher", "truth@{k}", page_sum, (*_LISTED, "truth"), key="page_truth", about=_TRUE)
_WORTH = "The last stage's value of a page's items."
_page("higher", "value@{k}", page_sum, (*_LISTED, "value"), key="page_value", about=_WORTH)
_page("higher", "clicks@{k}", page_clicks, (*_LISTED, "clicked", "exposed", "propensity"), key="page_clicks")
_NEAR = ("clicked", "exposed", "propensity", "expected", "column")
_page("higher", "near_clicks@{k}", page_near_clicks, (*_LISTED, *_NEAR), key="page_near_clicks")
_page("higher", "distance@{k}", list_distance, ("requests", "distance"), key="page_distance")
_page("higher", "distinct@{k}", distinct_values, (*_LISTED, "column"), key="page_distinct")
_page("higher", "entropy@{k}", value_entropy, (*_LISTED, "column"), key="page_entropy")
_page("lower", "broken@{k}", broken_slots, (*_LISTED, "broken"), key="page_broken")
_CATALOGUE = (*_LISTED, "item", "catalogue")
_page("higher", "coverage@{k}", partial(catalogue_spread, what="coverage"), _CATALOGUE, key="page_coverage")
_UNEQUAL = "How unequally the pages show the items of the catalogue."
_page(
    "lower", "gini@{k}", partial(catalogue_spread, what="gini"), _CATALOGUE, key="page_gini", about=_UNEQUAL
)

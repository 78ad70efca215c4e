"""Metrics of pages: what they are worth, how much differs on them, and how their items cover the catalogue.

Importing the module enters them in the table.

Letters: R requests · C candidates · V values of a column · P pairs of a user and an item shown · B resamples.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles, Longs, Mask, Numbers
from corank.metrics.measure import Keys, RatioMeasure
from corank.metrics.metric import add_metric
from corank.metrics.off_policy import RandomBucket
from corank.metrics.requests import Requests


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

"""Metrics of what the log alone does not show, estimated from requests of a random bucket or by the last stage.

Off-policy estimates: what the lists of a new cascade would earn, from requests whose exposed candidates were drawn.

In a random bucket production draws which candidates it exposes, and logs the propensity πᵢ, the probability at which
each could be drawn. L is the list that the new cascade would show, E what was exposed, yᵢ whether i was clicked. Since
E[1(i ∈ E) / πᵢ] = 1, Σ yᵢ/πᵢ over E ∩ L has the expectation of the clicks that L would get, if a click depends on the
request and the candidate alone: not on the position, and not on what else is shown.

All are rates, clicks per item that the cascade would show; times the length of the list they are clicks per request.
A request counts if it is of the bucket: some candidate of it has a propensity.

Sources: Horvitz and Thompson, A Generalization of Sampling Without Replacement from a Finite Universe, 1952 (IPS);
Swaminathan and Joachims, The Self-Normalized Estimator for Counterfactual Learning, 2015 (SNIPS); Dudík, Langford and
Li, Doubly Robust Policy Evaluation and Learning, 2011 (DR).

What a few requests with great weights say is chance. With w the weight Σ 1/πᵢ over E ∩ L of a request, n requests count
as (Σ w)² / Σ w² requests of equal weight, the effective sample (Kong, A Note on Importance Sampling Using Standardized
Weights, 1992; Owen, Monte Carlo Theory, Methods and Examples, 2013, 9.3). And Σ w / Σ |L| has the expectation 1; it is
the share of the lists that could be drawn at all, if some could not, as under a policy of deficient support (Sachdeva,
Su and Joachims, Off-policy Bandits with Deficient Support, 2020). With too little of either there is no value, but the
reason why.

The probability that a stage's cut loses the best candidate of a request, by the last stage and by clicks: the best
candidate is the one that the user would choose if all were shown: by Luce's choice with calibrated click
probabilities pᵢ as weights, candidate i at the probability pᵢ / Σ pⱼ. It is softmax(log p)ᵢ, the highest of
log pᵢ + Gumbel noise, and the candidate of a click drawn from all that the request would get. So a random bucket
observes it. Calibration has fitted the scale of the logits, the temperature, on clicks.
Source: Luce, Individual Choice Behavior, 1959.

Importing the module enters these metrics in the table.

Letters: R requests · C candidates.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles, Longs, Mask, Numbers
from corank.metrics.cascade import random_recall
from corank.metrics.measure import RatioMeasure
from corank.metrics.metric import add_metric
from corank.metrics.requests import Requests

LEAST_EFFECTIVE = 100.0
"""The effective sample below which there is no estimate: the error of a rate p is then √(p (1 − p) / 100) and more."""
LEAST_SUPPORT = 0.8
"""Share of the lists that could be drawn below which there is none."""


@dataclass(frozen=True)
class RandomBucket:
    """The requests of a random bucket, and the weight of each exposed candidate."""

    requests: Requests
    inside: Mask
    """Whether a request is of the bucket: (R,)."""
    inverse: Doubles
    """1/πᵢ of exposed candidates; 0 of others, and outside of the bucket: (C,)."""
    possible: Mask | None
    """Whether a candidate could be drawn: (C,); None if the log has the propensities of exposed candidates alone."""

    @classmethod
    def of(cls, requests: Requests, exposed: Mask, propensity: Numbers) -> "RandomBucket":
        """Find the bucket; arguments as in `ips_click_rate`."""
        known = ~np.isnan(propensity)
        chance = np.where(known & exposed, propensity, 1.0).astype(np.float64)
        possible = known if (known & ~exposed).any() else None
        return cls(requests, requests.sums(known) > 0, np.where(known & exposed, 1 / chance, 0.0), possible)

    def per_item(self, listed: Mask, value: Doubles, per: Doubles | None = None) -> RatioMeasure:
        """Σ value / Σ per over the items that the cascade would show in the bucket; `per` is 1 unless given: (C,) each.

        A random order shows an item with the same probability wherever it stands: its list as long, its items drawn.
        """
        requests, inside = self.requests, np.where(self.inside, 1.0, 0.0)
        weight = np.ones(len(listed)) if per is None else per
        numerator, denominator = (inside * requests.sums(column * listed) for column in (value, weight))
        share = inside * requests.sums(listed) / np.maximum(requests.size, 1)
        drawn, among = (float(share @ requests.sums(column)) for column in (value, weight))
        random = denominator * (drawn / among) if among else denominator
        count, reason = int(self.inside.sum()), self.why_unjudged(listed)
        return RatioMeasure.of(requests.user, numerator, denominator, count, random, reason)

    def why_unjudged(self, listed: Mask) -> str | None:
        """Say why the bucket cannot judge lists, or what bucket could; None if it can, or is empty.

        The share that could be drawn is known if the log has propensities of what was not exposed, too. The share that
        was drawn counts as too small if it is so by two of its standard errors.
        """
        weight = self.requests.sums(self.inverse * listed)
        inside, shown = int(self.inside.sum()), float(self.requests.sums(listed) @ self.inside)
        if not inside or not shown:
            return None
        cannot = "the log cannot judge this cascade"
        total, squares = float(weight.sum()), float(weight @ weight)
        effective = total**2 / squares if total else 0.0
        if effective < LEAST_EFFECTIVE:
            if not total:
                return f"{cannot}: none of what it would show was drawn, in {inside:,} requests of the bucket"
            more = LEAST_EFFECTIVE / effective
            share = ceil(100 * more * inside / len(self.inside))
            would = (
                f"a bucket of {share} % for as long" if share <= 50 else f"{ceil(more)} times the requests"
            )
            return f"{cannot}: effective sample {effective:.0f} of {inside:,} requests; {would} would do"
        drawn, slack = total / shown, 2 / max(effective, 1.0) ** 0.5
        if self.possible is not None:
            could = float(self.requests.sums(listed & self.possible) @ self.inside) / shown
            drawn, slack = (could, 0.0) if could < LEAST_SUPPORT else (drawn, slack)
        if total and drawn * (1 + slack) < LEAST_SUPPORT:
            return (
                f"{cannot}: {drawn:.0%} of what it would show could be drawn, or was shown when drawn; draw from all "
                "candidates, and log the propensity of being shown"
            )
        return None


def ips_click_rate(
    requests: Requests, listed: Mask, clicked: Mask, exposed: Mask, propensity: Numbers
) -> RatioMeasure:
    """Estimate clicks per shown item by inverse propensity scores: Σ yᵢ/πᵢ over E ∩ L / Σ |L|. Unbiased.

    L is the list that the cascade would show, E what the log exposed, y whether it was clicked, π its propensity; over
    requests of the random bucket. Random order: the bucket's own click rate. Source: Horvitz and Thompson 1952.

    Args:
        requests: how the candidates lie in requests.
        listed: whether the new cascade would show a candidate: (C,).
        clicked: whether it was clicked: (C,).
        exposed: whether it was exposed: (C,).
        propensity: at what probability it was to be exposed, above 0; NaN outside of the bucket: (C,).
    """
    bucket = RandomBucket.of(requests, exposed, propensity)
    return bucket.per_item(listed, bucket.inverse * clicked)


def snips_click_rate(
    requests: Requests, listed: Mask, clicked: Mask, exposed: Mask, propensity: Numbers
) -> RatioMeasure:
    """Estimate clicks per shown item by self-normalised scores: Σ yᵢ/πᵢ / Σ 1/πᵢ, both over E ∩ L.

    How much of the lists the draw happened to expose cancels out, and the value lies within 0 to 1. The bias is of the
    order of 1 / the exposed items of the lists. Letters and random order as for `ips_click_rate`. Source: Swaminathan
    and Joachims 2015. Arguments as in `ips_click_rate`.
    """
    bucket = RandomBucket.of(requests, exposed, propensity)
    return bucket.per_item(listed, bucket.inverse * clicked, per=bucket.inverse)


def dr_click_rate(
    requests: Requests, listed: Mask, clicked: Mask, exposed: Mask, propensity: Numbers, expected: Numbers
) -> RatioMeasure:
    """Estimate clicks per shown item doubly robustly: (Σ qᵢ over L + Σ (yᵢ − qᵢ)/πᵢ over E ∩ L) / Σ |L|.

    q is a model's click probability. Unbiased whatever q is, if q did not learn from these clicks; its variance is the
    smaller the better q is. So do not use it on the split `train`. Other letters as for `ips_click_rate`. Source:
    Dudík, Langford and Li 2011.

    Args:
        requests: these and the next four as in `ips_click_rate`.
        listed: see above.
        clicked: see above.
        exposed: see above.
        propensity: see above.
        expected: q, the last stage's calibrated probability of a click: (C,).
    """
    bucket, q = RandomBucket.of(requests, exposed, propensity), expected.astype(np.float64)
    return bucket.per_item(listed, q + bucket.inverse * (clicked - q))


def bucket_weight(requests: Requests, exposed: Mask, propensity: Numbers) -> RatioMeasure:
    """Average Σ 1/πᵢ over E / candidates of the request: 1 if the propensities are right, whatever was clicked.

    Arguments as in `ips_click_rate`.
    """
    bucket = RandomBucket.of(requests, exposed, propensity)
    return requests.mean(requests.sums(bucket.inverse) / np.maximum(requests.size, 1), bucket.inside)


def cut_probability(requests: Requests, expected: Numbers, rank: Longs, m: int) -> Doubles:
    """Compute how likely the best candidate of each request is cut: Σ pᵢ over what is not in the top m / Σ pᵢ: (R,).

    Args:
        requests: how the candidates lie in requests.
        expected: p, the last stage's calibrated probability, above 0: (C,).
        rank: rank by the stage that cuts: (C,).
        m: how many candidates it keeps.
    """
    p = np.maximum(expected.astype(np.float64), np.finfo(np.float64).tiny)
    cut: Doubles = requests.sums(p * (rank >= m)) / requests.sums(p)
    return cut


def best_cut(requests: Requests, expected: Numbers, rank: Longs, m: int) -> RatioMeasure:
    """Average how likely the best candidate is cut, as the last stage believes.

    The best candidate is the one that the user would choose if all were shown. By Luce's choice, with the last stage's
    calibrated probabilities p as weights, candidate i is chosen with probability pᵢ / Σ pⱼ. It trusts the last stage,
    which overestimates what it chose: `bucket_click_recall` measures the same on a random bucket without it.

    Eligible: more than m candidates. Random order of n candidates: 1 − m / n. Arguments as in `cut_probability`.
    """
    random = 1 - np.minimum(random_recall(requests.size, m), 1.0)
    return requests.mean(cut_probability(requests, expected, rank, m), requests.size > m, random)


def bucket_click_recall(
    requests: Requests, label: NDArray[np.integer], exposed: Mask, propensity: Numbers, rank: Longs, m: int
) -> RatioMeasure:
    """Share of the clicks that all candidates would get that is in the stage's top m: Σ yᵢ/πᵢ over E ∩ top m / over E.

    Unlike `click_recall` it is of a random bucket, so production's choice of what it exposed has no part in it.
    Eligible: requests of the bucket with more than m candidates. Random order of n candidates: m / n.

    Args:
        requests: how the candidates lie in requests.
        label: 1 where clicked, else 0 or −1: (C,).
        exposed: (C,) bool.
        propensity: at what probability a candidate was to be exposed; NaN outside of the bucket: (C,).
        rank: rank by the stage: (C,).
        m: how many candidates the stage keeps.
    """
    bucket = RandomBucket.of(requests, exposed, propensity)
    eligible = bucket.inside & (requests.size > m)
    weighted = bucket.inverse * (label == 1) * eligible[requests.request_of]
    clicks = requests.sums(weighted)
    random = clicks * np.minimum(random_recall(requests.size, m), 1.0)
    return RatioMeasure.of(
        requests.user, requests.sums(weighted * (rank < m)), clicks, int(eligible.sum()), random
    )


_BUCKET = ("requests", "listed", "clicked", "exposed", "propensity")
_CLICKS = ("requests", "label", "exposed", "propensity", "rank", "m")
_WEIGHT = ("requests", "exposed", "propensity")
_BEST = ("requests", "expected", "rank", "m")
add_metric("cascade", "higher", "ips_click_rate@{k}", ips_click_rate, _BUCKET)
add_metric("cascade", "higher", "snips_click_rate@{k}", snips_click_rate, _BUCKET)
add_metric("cascade", "higher", "dr_click_rate@{k}", dr_click_rate, (*_BUCKET, "expected"))
add_metric("cascade", "one", "bucket_weight", bucket_weight, _WEIGHT)
add_metric("cut", "lower", "best_cut@{m}", best_cut, _BEST)
add_metric("cut", "higher", "bucket_click_recall@{m}", bucket_click_recall, _CLICKS)

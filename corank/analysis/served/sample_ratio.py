"""Whether users were assigned to a canary as its share says; otherwise a comparison is not valid.

The share of users is tested by a mixture of likelihood ratios over binomial shares, with a beta prior around the share
that was set: a martingale if users are assigned so. By Ville's inequality its inverse is a p-value that holds at every
look. Source: Lindon and Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022.

Letters: U users · T looks.
"""

from math import exp, lgamma, log
from typing import Any

import numpy as np

from corank.analysis.served.sequential import look_ends
from corank.core.types import Mask

CONCENTRATION = 1000.0
"""Weight of the prior in users: differences of a seventh of a share of 5 % are detected soonest."""
MISMATCH = 0.001
"""The p-value below which users were not assigned as the share says: chance does it in one of a thousand canaries."""


def check_share(is_canary: Mask, share: float) -> dict[str, Any]:
    """Test the share of users that a canary had, look by look.

    Args:
        is_canary: whether a user had the canary, in the order in which users came: (U,).
        share: of users that it was to have.
    """
    assigned = np.cumsum(is_canary)
    evidence = [_log_ratio(int(assigned[end - 1]), int(end), share) for end in look_ends(len(is_canary))]
    p = exp(-max([0.0, *evidence]))
    return {
        "expected": share,
        "observed": float(is_canary.mean()) if len(is_canary) else None,
        "users": len(is_canary),
        "p": p,
        "mismatch": p < MISMATCH,
    }


def _log_ratio(canary: int, users: int, share: float) -> float:
    """The logarithm of the mixture's likelihood over that of the share, of so many of the users."""
    a, b, live = CONCENTRATION * share, CONCENTRATION * (1 - share), users - canary
    mixture = _log_beta(a + canary, b + live) - _log_beta(a, b)
    return mixture - canary * log(share) - live * log(1 - share)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)

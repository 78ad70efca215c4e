"""How strongly rates by key are smoothed: fitted to the counts of training rows.

Letters: K keys.
"""

import numpy as np

from corank.core.types import Doubles

USUAL = 10.0
"""The smoothing that nothing speaks against, and that few keys leave as it is."""
BOUNDS = (0.1, 1e5)


def fit_smoothing(shown: Doubles, positive: Doubles) -> float:
    """Fit the strength s of a beta prior of the mean rate r to the counts of K keys, (K,), by empirical Bayes.

    The x of n candidates of a key are beta-binomial: log Γ(x+sr) Γ(n−x+s(1−r)) Γ(s) / (Γ(n+s) Γ(sr) Γ(s(1−r))), summed
    over keys, is their likelihood (Griffiths, Maximum likelihood estimation for the beta-binomial distribution,
    Biometrics 1973; Robbins, An empirical Bayes approach to statistics, 1956). r is the rate of all. A prior of log s,
    normal around log USUAL with deviation log 10, decides where keys are few: there s is USUAL.

    Returns:
        s, to three digits.
    """
    # slow to load, and for packing alone
    from scipy.optimize import minimize_scalar
    from scipy.special import gammaln

    known = shown > 0
    n, x = shown[known], np.minimum(positive[known], shown[known])
    total = n.sum()
    if not 0 < x.sum() < total:
        return USUAL
    rate = x.sum() / total
    pairs, times = np.unique(np.stack((n, x)), axis=1, return_counts=True)
    n, x = pairs

    def loss(log_s: float) -> float:
        s = np.exp(log_s)
        a, b = s * rate, s * (1 - rate)
        likelihood = gammaln(x + a) + gammaln(n - x + b) - gammaln(n + s)
        norm = gammaln(s) - gammaln(a) - gammaln(b)
        far = (log_s - np.log(USUAL)) / np.log(10)
        return float(far**2 / 2 - (times * (likelihood + norm)).sum())

    optimum = minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded", options={"xatol": 1e-4})
    return float(f"{np.exp(optimum.x):.3g}")

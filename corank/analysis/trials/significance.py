"""Intervals of comparisons between trainings: over users and seeds, and over families of checkpoints.

Letters: S seeds · B resamples of the users, the same for every training · N checkpoints.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles

DRAWS = 20
"""Draws of the seeds for each resample of the users."""
FAMILIES = 1000
"""Resamples of a family of checkpoints."""


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    """Ends of the 95 % interval; None if there is nothing to resample."""

    @property
    def sign(self) -> int:
        """1 if surely above 0, −1 if surely below, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def mean_over_seeds(values: Sequence[float], replicates: Doubles, seed: int = 0) -> Interval:
    """Mean of a figure over seeds, with a 95 % percentile interval over users and seeds.

    Each resample of the users is combined with `DRAWS` resamples of the seeds. Their deviations from the mean are
    multiplied by √(S / (S − 1)), since a bootstrap of S values understates their variance by that factor squared. With
    one seed the interval is over users alone.

    Args:
        values: the figure by seed, (S,); differences for a paired comparison.
        replicates: the figure in each resample of the users, (S, B), NaN where undefined.
        seed: of the resamples of the seeds.
    """
    s, b = replicates.shape
    whole = replicates.mean(axis=0)
    if s > 1:
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(s, np.full(s, 1 / s), size=(b, DRAWS)) / s
        means = np.einsum("bds,sb->bd", drawn, replicates)
        whole = (whole[:, None] + np.sqrt(s / (s - 1)) * (means - whole[:, None])).ravel()
    return percentile_interval(float(np.mean(values)), whole)


def percentile_interval(value: float, replicates: Doubles) -> Interval:
    """A value with the 95 % percentile interval of its resamples, (B,); NaN resamples are left out."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return Interval(value, None, None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def rank_correlations(
    figures: dict[str, Doubles], end: Doubles, family: NDArray[np.integer], seed: int = 0
) -> dict[str, tuple[float, Doubles]]:
    """Spearman's ρ of each figure (N,) with `end` (N,), and its resamples, NaN where undefined.

    Checkpoints of one `family` (N,), such as one arm at several seeds, depend on each other, so whole families are
    resampled, the same for every figure. A figure that does not vary is left out.
    """
    members = [np.flatnonzero(family == one) for one in np.unique(family)]
    generator = np.random.default_rng(seed)
    drawn = [
        np.concatenate([members[n] for n in generator.integers(len(members), size=len(members))])
        for _ in range(FAMILIES if len(members) > 1 else 0)
    ]
    correlations = {}
    for name, figure in figures.items():
        rho = spearman(figure, end)
        if rho is None:
            continue
        values = [spearman(figure[rows], end[rows]) for rows in drawn]
        correlations[name] = rho, np.array(values, dtype=np.float64)
    return correlations


def spearman(one: Doubles, other: Doubles) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None if one side does not vary: (N,), (N,) → scalar."""
    from scipy.stats import rankdata  # slow to import

    x, y = (rankdata(values) - (len(values) + 1) / 2 for values in (one, other))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else None

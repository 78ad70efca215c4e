"""How sure a comparison of trainings is: over users and seeds together, and over a family of checkpoints.

Letters: S seeds · B resamples of the users, the same for every training · N checkpoints.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from corank.core.types import Doubles

DRAWS = 20
"""Draws of the seeds for each resample of the users."""
FAMILIES = 1000
"""Resamples of a family of checkpoints."""


class Interval(NamedTuple):
    value: float
    low: float | None
    high: float | None
    """95 %; None where there is nothing to resample."""

    @property
    def sign(self) -> int:
        """1 if surely above 0, −1 if surely below, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def over_seeds(values: Sequence[float], replicates: Doubles, seed: int = 0) -> Interval:
    """The mean of a figure over seeds (S,), with a 95 % percentile interval over users and seeds.

    A resample of the users (`replicates`, (S, B), NaN where undefined) is met with `DRAWS` resamples of the seeds,
    whose deviations from the mean are stretched by √(S / (S − 1)): a bootstrap of so few understates their variance
    by as much. With one seed the interval is over users alone. For a paired comparison give differences.
    """
    s, b = replicates.shape
    whole = replicates.mean(axis=0)
    if s > 1:
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(s, np.full(s, 1 / s), size=(b, DRAWS)) / s
        means = np.einsum("bds,sb->bd", drawn, replicates)
        whole = (whole[:, None] + np.sqrt(s / (s - 1)) * (means - whole[:, None])).ravel()
    return bounded(float(np.mean(values)), whole)


def bounded(value: float, replicates: Doubles) -> Interval:
    """A value with the 95 % percentile interval of its resamples, those left out that are NaN."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return Interval(value, None, None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def rank_correlations(
    figures: dict[str, Doubles], end: Doubles, family: NDArray[np.integer], seed: int = 0
) -> dict[str, tuple[float, Doubles]]:
    """Spearman's ρ of each figure (N,) with the `end` (N,), and in resamples, NaN where undefined; for `bounded`.

    Checkpoints of one `family` (N,), such as one arm at several seeds, are alike: whole families are resampled. The
    resamples are the same for every figure. A figure that does not vary is left out.
    """
    members = [np.flatnonzero(family == one) for one in np.unique(family)]
    generator = np.random.default_rng(seed)
    drawn = [
        np.concatenate([members[n] for n in generator.integers(len(members), size=len(members))])
        for _ in range(FAMILIES if len(members) > 1 else 0)
    ]
    found = {}
    for name, figure in figures.items():
        rho = spearman(figure, end)
        if rho is None:
            continue
        values = [spearman(figure[rows], end[rows]) for rows in drawn]
        found[name] = rho, np.array(values, dtype=np.float64)
    return found


def spearman(one: Doubles, other: Doubles) -> float | None:
    """Rank correlation, ties at their mean rank; None where one does not vary."""
    x, y = (rankdata(values) - (len(values) + 1) / 2 for values in (one, other))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else None

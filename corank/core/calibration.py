"""Calibration of a stage's logits to probabilities: Platt's scaling, fitted on exposed validation rows."""

import math
from dataclasses import dataclass

import numpy as np

from corank.core.errors import DataError
from corank.core.types import Doubles, Index, Numbers


def sigmoid(x: Numbers) -> Numbers:
    """Compute σ(x) = 1 / (1 + e^−x), exact to rounding for any x, of its type.

    Example:
        >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
        array([0. , 0.5, 1. ])
    """
    small = np.exp(-np.abs(x))  # no overflow
    values: Numbers = np.where(x >= 0, 1, small) / (1 + small)
    return values


@dataclass(frozen=True)
class Platt:
    """σ(slope · logit + intercept), for one stage and label. A slope above 0 keeps the order.

    `dataclasses.asdict` gives its JSON, from which `Platt(**values)` restores the same bits.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.slope < math.inf and math.isfinite(self.intercept)):
            raise DataError(
                f"calibrator: expected a finite slope above 0 and a finite intercept; "
                f"received {self.slope} and {self.intercept}; fit it again"
            )

    def apply(self, logits: Numbers) -> Numbers:
        """Compute probabilities, of the shape and type of `logits`."""
        return sigmoid(logits * self.slope + self.intercept)


def fit(logits: Numbers, labels: Index, weight: Numbers | None = None) -> Platt:
    """Fit a calibrator by maximum likelihood (Platt, Probabilistic Outputs for Support Vector Machines, 1999).

    It minimises, over a = ln slope and c,

        Σ w BCE(y, σ(e^a (z − mean z) + c)) + a² / 2

    whose last term, worth one row, keeps the slope finite if the logits separate the classes, and near 1 if there are
    few rows. It does not touch the intercept, so Σ p = Σ y on these rows: PCOC is 1. If a class has no row, half a row
    of it is added at the mean logit. Without any row the result is the identity.

    Args:
        logits: (N,).
        labels: 1, 0, or −1 for rows to leave out: (N,).
        weight: of each row; 1 unless given: (N,).

    Raises:
        DataError: a logit is not finite.
    """
    rows = labels >= 0
    z, y = logits[rows].astype(np.float64), labels[rows].astype(np.float64)
    w = np.ones(len(z)) if weight is None else weight[rows].astype(np.float64)
    if not np.isfinite(z).all():
        raise DataError(
            f"logits: {np.count_nonzero(~np.isfinite(z))} of {len(z)} are not finite; did training diverge?"
        )

    mean = float(np.average(z, weights=w)) if w.any() else 0.0
    absent = np.array([label for label in (0.0, 1.0) if not w[y == label].any()])
    z = np.append(z - mean, np.zeros(len(absent)))
    y, w = np.append(y, absent), np.append(w, np.full(len(absent), 0.5))

    log_slope, centre = _minimum(z, y, w)
    slope = math.exp(log_slope)
    return Platt(slope, centre - slope * mean)


def _minimum(z: Doubles, y: Doubles, w: Doubles) -> tuple[float, float]:
    """Find ln slope and the intercept at z = 0, for centred logits and both classes present."""
    total = w.sum()

    def loss(at: Doubles) -> tuple[float, Doubles]:
        u = math.exp(at[0]) * z
        t = u + at[1]
        residual = w * (sigmoid(t) - y)
        value = w @ (np.logaddexp(0, t) - y * t) + at[0] ** 2 / 2
        return value / total, np.array([residual @ u + at[0], residual.sum()]) / total

    def curvature(at: Doubles) -> Doubles:
        u = math.exp(at[0]) * z
        p = sigmoid(u + at[1])
        v = w * p * (1 - p)
        bend = v @ u**2 + (w * (p - y)) @ u + 1
        tilt = v @ u
        hessian: Doubles = np.array([[bend, tilt], [tilt, v.sum()]]) / total
        return hessian

    spread = math.sqrt(w @ z**2 / total)
    start = [-math.log(spread) if spread > 0 else 0.0, math.log((w @ y) / (w @ (1 - y)))]
    options = {"gtol": 1e-9, "max_trust_radius": 4.0}
    # imported here, where it is used alone: it would double the time that a service takes to start
    from scipy.optimize import minimize

    optimum = minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options=options)
    return float(optimum.x[0]), float(optimum.x[1])

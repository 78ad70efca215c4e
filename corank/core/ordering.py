"""Orderings: value of a stage, stable top k, smooth rank within a request, search in many sorted ranges at once.

Letters: R requests · C candidates.

The value by which a stage orders candidates: an expression over labels and columns, such as `click * bid`.

Python's own parser reads it. Only numbers, names, + − * / ** and brackets are allowed, and nothing is evaluated as
code. A label stands for its calibrated probability, a column for its number.
"""

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np

from corank.core.calibration import Platt
from corank.core.settings import describe_unknown
from corank.core.types import Doubles, Floats, Ints, Longs, Numbers

MAX_LENGTH = 500
"""Characters of an expression, at most."""
MAX_NUMBER = 1e300
"""Numbers in an expression, and what is computed of numbers alone, must be smaller."""
MAX_EXPONENT = 32
"""Exponents that are numbers are at most so large, on either side of 0: of a larger one no value is left."""

T = TypeVar("T")

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Formula:
    """A parsed expression."""

    text: str
    names: tuple[str, ...]
    """The labels and columns in it, in the order of their first appearance."""
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str, known: Collection[str] | None = None) -> Self:
        """Parse an expression.

        Args:
            text: the expression.
            known: the names that it may use; any if not given.

        Raises:
            ValueError: the expression is malformed, uses an unknown name, or none at all, divides by 0, or has a
                part of numbers alone that is too large or none.

        Example:
            >>> Formula.parse("click * bid").names
            ('click', 'bid')
        """
        if text.strip() in (known or ()):  # a label may be called anything
            name = text.strip()
            return cls(text, (name,), ast.Name(name))
        if len(text) > MAX_LENGTH:
            raise ValueError(f"expected at most {MAX_LENGTH} characters; received {len(text)}")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError(f"{text!r} is not an expression; write one such as click * bid") from None
        names: dict[str, None] = {}
        _check(tree, known, names)
        if not names:
            raise ValueError(f"{text!r} names no label, so that all candidates would be alike")
        return cls(text, tuple(names), tree)

    @property
    def single(self) -> str | None:
        """The name, if the expression is a single name."""
        return self._tree.id if isinstance(self._tree, ast.Name) else None

    def __call__(self, columns: Mapping[str, Numbers]) -> Numbers:
        """Compute the value of each candidate, in float64, from the columns of its `names`: (C,)."""
        with np.errstate(all="ignore"):  # values that are not finite are refused where they are used
            doubles = {name: columns[name].astype(np.float64, copy=False) for name in self.names}
            return np.asarray(self.evaluate(doubles, lambda x: np.asarray(x, dtype=np.float64)))

    def evaluate(self, columns: Mapping[str, T], number: Callable[[float], T]) -> T:
        """Compute the value from columns of any type that has arithmetic, such as tensors; `number` makes one."""
        value: T = _evaluate(self._tree, columns, number)
        return value


def _check(node: ast.expr, known: Collection[str] | None, names: dict[str, None]) -> float | None:
    """Collect the names of a part; return the number that one without names stands for. Raises ValueError."""
    match node:
        case ast.Name(id=name):
            if known is not None and name not in known:
                raise ValueError(f"{describe_unknown(name, known, 'name')}")
            names[name] = None
            return None
        case ast.Constant(value=int() | float() as number) if (
            type(number) in (int, float) and abs(number) < MAX_NUMBER
        ):
            return float(number)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _check(operand, known, names)
            return value if value is None or isinstance(sign, ast.UAdd) else -value
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _fold(node, _check(left, known, names), _check(right, known, names))
    raise ValueError(f"{_describe(node)} is not allowed; use names, numbers, + - * / ** and brackets")


def _fold(node: ast.BinOp, left: float | None, right: float | None) -> float | None:
    """The number that two numbers make; None unless both are. Raises ValueError where no value would be of use."""
    if isinstance(node.op, ast.Div) and right == 0:
        raise ValueError(f"{_describe(node)} divides by 0")
    if isinstance(node.op, ast.Pow) and right is not None and abs(right) > MAX_EXPONENT:
        raise ValueError(
            f"{_describe(node)} has the exponent {right:g}; write one from -{MAX_EXPONENT} to {MAX_EXPONENT}"
        )
    if left is None or right is None:
        return None
    with np.errstate(all="ignore"):
        value = float(_OPERATORS[type(node.op)](np.float64(left), np.float64(right)))
    if not abs(value) < MAX_NUMBER:  # nor is NaN
        raise ValueError(f"{_describe(node)} is {value:g}; write numbers with a result below {MAX_NUMBER:g}")
    return value


def _describe(node: ast.expr) -> str:
    try:
        return repr(ast.unparse(node))
    except RecursionError:
        return "an expression nested so deeply"


def _evaluate(node: ast.expr, columns: Mapping[str, Any], number: Callable[[float], Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return columns[name]
        case ast.Constant(value=int() | float() as value):
            return number(value)
        case ast.UnaryOp(op=sign, operand=operand):
            argument = _evaluate(operand, columns, number)
            return -argument if isinstance(sign, ast.USub) else argument
        case ast.BinOp(left=left, op=sign, right=right):
            return _OPERATORS[type(sign)](_evaluate(left, columns, number), _evaluate(right, columns, number))
    raise AssertionError(node)


MAX_LOGIT = 1e4
"""Logits are cut to this size: larger ones carry no information and would cost the others digits."""
SOFT_WIDTH = 0.05
"""Logits closer than this count as about equal, so that the last digit of a score cannot change a rank."""


def stage_value(
    value: Formula,
    logits: Mapping[str, Numbers],
    calibrators: Mapping[str, Platt],
    columns: Mapping[str, Numbers],
) -> Numbers:
    """Compute the value by which a stage orders candidates, from calibrated probabilities and columns.

    Args:
        value: the stage's formula.
        logits: label → (C,).
        calibrators: label → calibrator; a name of the formula that has none is a column.
        columns: name → (C,).

    Returns:
        Values: (C,).
    """
    known = {label: calibrators[label].apply(logits[label]) for label in value.names if label in calibrators}
    return known[value.single] if value.single else value({**columns, **known})


FEW = 128
"""Up to so many scores are sorted to drop some of them."""


def top_k(scores: Numbers, k: int) -> Longs:
    """Return the positions of the k largest scores, best first, ties in the order given.

    Args:
        scores: (C,). NaN is never among the results.
        k: 1 or more.

    Returns:
        Positions: (k,), or fewer if there are fewer scores.

    Example:
        >>> top_k(np.array([1.0, 3.0, 3.0, 2.0]), 2)
        array([1, 2])
    """
    least = len(scores) - k
    if least <= FEW:  # a whole sort takes less than the steps below
        return (-scores).argsort(kind="stable")[: min(k, np.count_nonzero(scores == scores))]
    order = scores.copy()
    order.partition(least)
    (positions,) = (scores >= order[least]).nonzero()
    best: Longs = positions.take((-scores.take(positions)).argsort(kind="stable"))
    return best[:k]  # the last of equal ones are cut


def stable_order(keys: Ints, at_once: bool = False) -> Longs:
    """The positions of keys by rising key, those of equal keys in their order: (N,) → (N,).

    Two sorts of 16 bits, which numpy does by counting; or `at_once`, one of 64-bit numbers that hold key and position.
    That takes half as long on Intel's processors with AMX, and four to six times as long on one whose AVX-512
    compresses slowly, as AMD's Zen 4.

    Example:
        >>> stable_order(np.array([70_000, 3, 70_000, -1], np.int32))
        array([3, 1, 0, 2])
    """
    if at_once:
        pairs: Longs = keys.astype(np.int64) << 32 | np.arange(len(keys))
        pairs.sort()
        return pairs & 0xFFFF_FFFF
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    return order.take(np.argsort((keys >> 16).astype(np.int16).take(order), kind="stable"))


def soft_ranks(scores: Floats, start: Longs, count: Floats | None = None) -> Floats:
    """Rank the candidates of each request smoothly: high for the best, of mean 0 and variance 1 over a request.

    The rank is (½ − p)·√12 of the share p of the request's candidates that score higher,

        p_i = Σ_j w_j r((z_j − z_i) / 2s + ½) / Σ_j w_j

    with r cutting to 0 … 1 and s = SOFT_WIDTH. This is the plain share except for candidates within s of each
    other, so that p changes by at most 1/2s a logit.

    Args:
        scores: logits z: (C,).
        start: where each request's candidates begin, and the end: (R + 1,).
        count: w, how many candidates each one represents; 1 unless given: (C,).

    Returns:
        (C,)
    """
    z = scores.astype(np.float64).clip(-MAX_LOGIT, MAX_LOGIT)
    w = np.ones(len(z)) if count is None else count.astype(np.float64)
    if not len(z):
        return scores
    size = np.diff(start)
    request = np.repeat(np.arange(len(size)), size)
    # requests side by side on one axis, too far apart to meet
    z = z - z.min()
    along = z + request * (z.max() + 4 * SOFT_WIDTH)
    order = np.argsort(along, kind="stable")
    ordered = along[order]
    weight, weighted = _sums(w[order]), _sums((w * z)[order])
    low = np.searchsorted(ordered, along - SOFT_WIDTH)
    high = np.searchsorted(ordered, along + SOFT_WIDTH, side="right")
    near = weight[high] - weight[low]
    above = weight[start[1:]][request] - weight[high]
    above += near / 2 + (weighted[high] - weighted[low] - z * near) / (2 * SOFT_WIDTH)
    total = (weight[start[1:]] - weight[start[:-1]])[request]
    share = above / np.where(total > 0, total, 1)
    rank: Floats = ((0.5 - share) * np.sqrt(12)).astype(np.float32)
    return rank


def _sums(values: Doubles) -> Doubles:
    return np.append(0, np.cumsum(values))


def bisect_ranges(times: Longs, low: Longs, high: Longs, cut: Longs) -> Longs:
    """Find in N ranges of an array the first value that is not below a cut, as `bisect_left` does in one.

    Each range is searched by itself, so that `times` may be a memory map larger than memory.

    Args:
        times: ascending within each range.
        low, high: begin and end of each range: (N,).
        cut: the value to look for in each: (N,).

    Returns:
        The index into `times`, `high` if all values of the range are below the cut: (N,).
    """
    if len(cut) == 1:  # as for a request
        return low + np.searchsorted(times[low[0] : high[0]], cut)
    low, high = low.copy(), high.copy()
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) // 2
        before = times[middle] < cut[open_]
        low[open_[before]] = middle[before] + 1
        high[open_[~before]] = middle[~before]
    return low

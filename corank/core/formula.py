"""The value by which a stage orders candidates: an expression over labels and columns, such as `click * bid`.

Python's own parser reads it. Only numbers, names, + − * / ** and brackets are allowed, and nothing is evaluated as
code. A label stands for its calibrated probability, a column for its number.
"""

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np

from corank.core.settings import describe_unknown
from corank.core.types import Numbers

MAX_LENGTH = 500
"""Characters of an expression, at most."""
MAX_NUMBER = 1e300
"""Numbers in an expression must be smaller."""

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
            ValueError: the expression is malformed, uses an unknown name, or none at all.

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


def _check(node: ast.expr, known: Collection[str] | None, names: dict[str, None]) -> None:
    match node:
        case ast.Name(id=name):
            if known is not None and name not in known:
                raise ValueError(f"{describe_unknown(name, known, 'name')}")
            names[name] = None
        case ast.Constant(value=int() | float() as number) if (
            type(number) in (int, float) and abs(number) < MAX_NUMBER
        ):
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, known, names)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            _check(left, known, names)
            _check(right, known, names)
        case _:
            raise ValueError(
                f"{_describe(node)} is not allowed in an expression; use names, numbers, + - * / ** and brackets"
            )


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

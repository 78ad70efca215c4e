"""Array types by element type, and the protocols of the callables that report what a long operation does."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Hashes = NDArray[np.uint64]
Mask = NDArray[np.bool_]
Index = NDArray[np.integer]
"""Positions, in integers of any width."""
Numbers = NDArray[np.floating]
"""Numbers, in floats of any width."""
Array = Numbers | Index
"""Numbers of any type."""


class Report(Protocol):
    """Receives one line of text for the user, without a line end."""

    def __call__(self, line: str, /) -> object:
        """Report a line."""


class Progress(Protocol):
    """Receives how many units of work are done, and how many there are in all."""

    def __call__(self, done: int, total: int, /) -> object:
        """Report that `done` of `total` units are done."""

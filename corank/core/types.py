"""Array types by element type."""

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

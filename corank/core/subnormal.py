"""Subnormal numbers, those below 2^-126: arithmetic with one takes up to a hundred times as long on some processors."""

import numpy as np

from corank.core.types import Floats

_MAGNITUDE, _ONE, _FIRST_NORMAL = np.uint32(0x7FFFFFFF), np.uint32(1), np.uint32(0x7FFFFF)
SMALLEST = 2.0**-126
"""The smallest normal number of 32 bits."""


def flush_subnormals(numbers: Floats) -> Floats:
    """Replace subnormal numbers of 32 bits by 0; an array without any is returned as it is.

    Example:
        >>> flush_subnormals(np.array([1e-40, -0.5, 0, 2e-38], dtype=np.float32)).tolist()
        [0.0, -0.5, 0.0, 1.9999999360571385e-38]
    """
    # by the bits, since a processor that is told to take them for zeros compares them as zeros, too
    bits = np.asarray(numbers.view(np.uint32) & _MAGNITUDE)
    bits -= _ONE  # of a zero the largest number
    if np.minimum.reduce(bits, axis=None, initial=_FIRST_NORMAL) == _FIRST_NORMAL:
        return numbers
    return np.where(bits < _FIRST_NORMAL, np.float32(0), numbers)

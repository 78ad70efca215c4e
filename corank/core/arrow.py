"""Numbers and bits of Arrow arrays, by their buffers.

Arrow's own conversions of nulls and bits, and its scalars, load pandas where it is installed: .3 s, in which a service
stalls, and 40 MiB.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from corank.core.types import Mask, Numbers


def to_numbers(array: pa.Array) -> Numbers:
    """The numbers of an array of numbers, 0 for each null: (N,)."""
    dtype: Any = array.type.to_pandas_dtype()
    if not len(array):
        return np.empty(0, dtype)
    numbers = np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]
    return np.where(to_mask(array.is_null()), 0, numbers) if array.null_count else numbers


def to_mask(bits: pa.BooleanArray) -> Mask:
    """The bits of an array without nulls: (N,)."""
    packed = np.frombuffer(bits.buffers()[1], np.uint8) if len(bits) else np.empty(0, np.uint8)
    return np.unpackbits(packed, count=bits.offset + len(bits), bitorder="little")[bits.offset :].view(bool)

"""Sums of rows as tensors: grouping keys, filling up, and how far shapes are rounded up.

Letters: V rows that are summed · U distinct keys.
"""

import numpy as np
import torch

from corank.batches.batch import Csr
from corank.core.types import Ints
from corank.features.input_layout import Bags


def padded(rows: int) -> int:
    """Round a number of rows up, by 1/16 at most.

    oneDNN builds a kernel for every new shape of a product, at .5 ms each. I and C differ from batch to batch, so dense
    inputs are padded with rows of zeros, which belong to no candidate, so that shapes repeat.
    """
    step = 1 << max(0, rows.bit_length() - 5)
    return -(-rows // step) * step


def csr(bags: Bags) -> Csr:
    """Convert bags of rows to tensors."""
    return Csr(
        torch.from_numpy(bags.row),
        None if bags.start is None else torch.from_numpy(bags.start),
        None if bags.weight is None else torch.from_numpy(bags.weight),
    )


def group(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Group keys (V,).

    Returns:
        The distinct keys, ascending: (U,); where the positions of each begin, and the end: (U + 1,); the positions, in
        order within each key: (V,).
    """
    # one sort of numbers that hold key and position: twice as fast as two stable sorts of 16 bits
    codes = keys.astype(np.int64) << 32 | np.arange(len(keys))
    codes.sort()
    key = (codes >> 32).astype(np.int32)
    new = np.ones(len(key), dtype=np.bool_)
    np.not_equal(key[1:], key[:-1], out=new[1:])
    first = np.flatnonzero(new)
    return key[first], np.append(first, len(keys)).astype(np.int32), (codes & 0xFFFFFFFF).astype(np.int32)


def fill(bags: Bags, count: int) -> Bags:
    """Append empty bags up to `count`."""
    assert bags.start is not None
    return Bags(bags.row, np.pad(bags.start, (0, count - bags.count), mode="edge"), bags.weight, count)

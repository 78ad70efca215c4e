"""Sums of weighted rows of a table, one sum a list of rows.

Letters: N lists · V rows of all lists · d width of a row.
"""

from functools import cache
from typing import Any

import numpy as np

from corank.core.types import Floats, Index, Ints

FEW = 512
"""Up to so many lists, making a sparse matrix takes longer than the product saves. More are summed so many at a time
where SciPy is not installed, so that the rows that are read stay in the processor's cache."""


def sum_weighted_rows(table: Floats, row: Ints, weight: Floats, length: Index) -> Floats:
    """Sum the weighted rows of each list: Σ weight[j] · table[row[j]] over its part of `row`.

    Measured for 1,000 lists of 10 rows, d 32: 0.2 ms by SciPy, 0.6 ms without.

    Args:
        table: (·, d).
        row: the lists' rows, one list after another: (V,).
        weight: of each: (V,).
        length: rows of each list: (N,).

    Returns:
        (N, d); zeros for an empty list.
    """
    ends = np.append(np.int32(0), np.cumsum(length, dtype=np.int32))
    sparse = _sparse_array() if len(length) > FEW else None
    if sparse is not None:
        product: Floats = sparse((weight, row, ends), (len(length), len(table))) @ table
        return product
    summed = np.zeros((len(length), table.shape[1]), dtype=np.float32)
    for first in range(0, len(length), FEW):
        last = min(first + FEW, len(length))
        begin, end = ends[first], ends[last]
        read = table.take(row[begin:end], axis=0)
        read *= weight[begin:end, None]
        filled = first + np.flatnonzero(length[first:last])
        if len(filled):
            summed[filled] = np.add.reduceat(read, ends[filled] - begin, axis=0)
    return summed


@cache
def _sparse_array() -> Any:
    """SciPy's matrix of compressed rows; None if SciPy, of the extra `train`, is not installed: a service does without.

    Imported at the first use, since a config's check needs none.
    """
    try:
        from scipy.sparse import csr_array
    except ModuleNotFoundError:
        return None
    return csr_array

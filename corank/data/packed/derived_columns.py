"""Rows of packed data's pairs that were not logged: derived features are computed, logged ones are missing."""

import numpy as np

from corank.core.ragged import Rows, concat_ranges
from corank.core.types import Index, Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import request_operands
from corank.data.packed.shard import LoggedRequests
from corank.features.encoding import Encoded
from corank.features.operands import OperandRows


def snapshot_rows(packed: PackedDataset, item: Index, times: Longs) -> Rows:
    """Make the snapshot rows of X pairs that were not logged, from their item rows (X,) and times (X,) in ms UTC."""
    encoder, columns = packed.row_encoders["snapshot"], dict[str, Encoded]()
    if encoder.derived:
        sides = OperandRows(
            packed.schema.operand_placements, {"item": packed.item_operands}, {"item": item}, len(item)
        )
        columns |= encoder.derive(sides, packed.priors, times)
    return encoder.rows(columns, len(item))


def pair_rows(
    packed: PackedDataset, rows: LoggedRequests, requests: Index, request_of: Index, item: Index
) -> Rows:
    """Make the cross rows of X pairs that were not logged.

    Args:
        requests: of a batch, R of `rows`.
        request_of, item: each pair's among them, and its item row: (X,).
    """
    schema, encoder = packed.schema, packed.row_encoders["cross"]
    columns = encoder.missing(len(item))
    if encoder.derived:
        operands = request_operands(packed, rows, requests)
        start = rows.request_start[requests]
        size = rows.request_start[requests + 1] - start
        of, logged = np.repeat(np.arange(len(requests)), size), rows.item[concat_ranges(start, size)]
        candidates = OperandRows.pairs(schema.operand_placements, operands, packed.item_operands, of, logged)
        pairs = OperandRows.pairs(
            schema.operand_placements, operands, packed.item_operands, request_of, item, None, candidates
        )
        columns |= encoder.derive(pairs, packed.priors, rows.time[requests][request_of])
    return encoder.rows(columns, len(item))

"""Derived features of rows: one code for packed data, batches, bundles and requests."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import polars as pl

from corank.core.ragged import Rows, concat_ranges
from corank.core.types import Doubles, Hashes, Index, Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import request_operands
from corank.data.packed.shard import LoggedRequests
from corank.features.encoders import Encoders, assemble_rows
from corank.features.encoding import Column, Encoded, Encoder
from corank.features.feature_kind import DerivedFeature
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime, PriorSnapshots
from corank.features.schema import Placement, Schema

Derived = Mapping[str, Hashes | Doubles]
"""By feature: hashes, 0 where missing, or numbers, NaN where missing: (N,)."""


def derive_features(
    schema: Schema,
    placement: Placement,
    sides: OperandRows,
    priors: PriorSnapshots,
    times: Longs,
    names: Collection[str] | None = None,
    sizes: Longs | None = None,
) -> Derived:
    """Compute the derived features of N rows of a placement, all or some.

    Args:
        schema: the features.
        placement: of the rows; a feature of `snapshot` is computed at the begin of its period.
        sides: the operands.
        priors: what was counted.
        times: of the rows, ms UTC: (N,).
        names: the features; all if None.
        sizes: how many candidates each row's request has: (N,), for rows of the query.
    """
    columns = {}
    for name, feature in schema.derived(placement).items():
        if names is None or name in names:
            every = feature.snapshot_every if placement == "snapshot" else None
            at = times if every is None else priors.cuts(name, every, times)
            columns[name] = feature.derive(sides, PointInTime(name, at, priors, sizes))
    return columns


Plan = Sequence[tuple[str, DerivedFeature, Encoder | None]]
"""Derived features of one placement, by name, with their encoders."""


def plan_features(encoders: Encoders, placement: Placement, names: Collection[str] | None = None) -> Plan:
    """List the derived features of a placement, all or some, for `encode_features`."""
    derived = encoders.schema.derived(placement)
    return [(n, f, encoders.fitted.get(n)) for n, f in derived.items() if names is None or n in names]


def encode_features(
    plan: Plan, sides: OperandRows, priors: PriorSnapshots, times: Longs, sizes: Longs | None = None
) -> dict[str, Column]:
    """Compute and encode derived features of N rows of a request's query or pairs, by name.

    `plan` is of `plan_features`, the others are as in `derive_features`.
    """
    return {
        name: feature.encode(encoder, feature.derive(sides, PointInTime(name, times, priors, sizes)))
        for name, feature, encoder in plan
    }


def encode_columns(encoders: Encoders, values: Derived) -> dict[str, Encoded]:
    """Encode derived features as codes and numbers, by name."""
    return {name: encoders.encode_derived(name, column) for name, column in values.items()}


def snapshot_rows(packed: PackedDataset, item: Index, times: Longs) -> Rows:
    """Make the snapshot rows of X pairs that were not logged, from their item rows (X,) and times (X,) in ms UTC."""
    schema, columns = packed.schema, dict[str, Encoded]()
    if schema.derived("snapshot"):
        sides = OperandRows(schema, {"item": packed.item_operands}, {"item": item}, len(item))
        values = derive_features(schema, "snapshot", sides, packed.priors, times)
        columns = encode_columns(packed.encoders, values)
    return assemble_rows(schema.row_features("snapshot"), columns, len(item))


def pair_rows(
    packed: PackedDataset, rows: LoggedRequests, requests: Index, request_of: Index, item: Index
) -> Rows:
    """Make the cross rows of X pairs that were not logged: derived features are computed, logged ones are missing.

    Args:
        requests: of a batch, R of `rows`.
        request_of, item: each pair's among them, and its item row: (X,).
    """
    schema = packed.schema
    columns = packed.encoders.encode_frame("cross", pl.DataFrame({"": [None] * len(item)}))
    if schema.derived("cross"):
        operands = request_operands(packed, rows, requests)
        start = rows.request_start[requests]
        size = rows.request_start[requests + 1] - start
        of, logged = np.repeat(np.arange(len(requests)), size), rows.item[concat_ranges(start, size)]
        candidates = OperandRows.pairs(schema, operands, packed.item_operands, of, logged)
        pairs = OperandRows.pairs(
            schema, operands, packed.item_operands, request_of, item, candidates=candidates
        )
        values = derive_features(schema, "cross", pairs, packed.priors, rows.time[requests][request_of])
        columns |= encode_columns(packed.encoders, values)
    return assemble_rows(schema.row_features("cross"), columns, len(item))

"""Candidates grouped by day, by a feature, or by a column of the log, so that a split is evaluated group by group.

Letters: R requests · C candidates · N groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.settings import describe_unknown
from corank.core.types import Index
from corank.data.log_rows import key_columns, request_columns, scan_log
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.predictions import Predictions, Truth
from corank.features.log_schema import ITEM
from corank.metrics.requests import Requests

MOST = 30
"""Groups, at most: the largest; the others count as one."""
DAY, OTHERS, MISSING = "day", "(others)", "(missing)"


@dataclass(frozen=True)
class CandidateGroups:
    """The group of each candidate."""

    by: str
    names: Sequence[str]
    """Of N groups: days in order, others from the largest on."""
    of: Index
    """The group of each candidate: (C,)."""
    of_requests: bool
    """Whether all candidates of a request are in one group, so that cascades can be evaluated."""


def group_candidates(
    packed: PackedDataset, base: Path, split: str, predictions: Predictions, by: str
) -> CandidateGroups:
    """Group the candidates of a split.

    Args:
        packed: the data.
        base: the folder that the tables' paths are relative to.
        split: its name.
        predictions: of the split.
        by: `day`, a feature with one code a row, or a column of the log.

    Raises DataError if there is no such feature and no such column.
    """
    requests = predictions.requests
    if by == DAY:
        days, of_request = np.unique(predictions.day, return_inverse=True)
        named = [str(date(1970, 1, 1) + timedelta(days=int(day))) for day in days]
        return CandidateGroups(by, named, of_request[requests.request_of], True)
    if by in packed.schema.embedded() and packed.schema.features[by].storage == "id":
        of, values = _codes(packed, split, by)
    else:
        of, values = _column(packed, base, split, requests, by)
    of, names = _largest(of, values)
    first = of[requests.start[:-1]]
    return CandidateGroups(by, names, of, bool((of == first[requests.request_of]).all()))


def _codes(packed: PackedDataset, split: str, name: str) -> tuple[Index, Sequence[str]]:
    """The codes of a feature, numbered, and what each means: (C,)."""
    schema = packed.schema
    placement = schema.placement(name)
    column = schema.row_features(placement).ids.index(name)
    placed = [packed.placed_rows(shard)[placement] for shard in packed.splits[split]]
    codes, of = np.unique(
        np.concatenate([rows.ids[index, column] for rows, index in placed]), return_inverse=True
    )
    feature, encoder = schema.features[name], packed.encoders.fitted.get(name)
    decoded = (feature.decode(encoder, int(code)) for code in codes)
    return of, [MISSING if value is None else str(value) for value in decoded]


def _column(
    packed: PackedDataset, base: Path, split: str, requests: Requests, column: str
) -> tuple[Index, Sequence[str]]:
    """The values of a column of the log, numbered: (C,)."""
    data, shards = packed.data, packed.splits[split]
    log = scan_log(data, base)
    if column not in log.types or log.types[column].is_nested():
        single = [n for n, f in packed.schema.embedded().items() if f.storage == "id"]
        raise DataError(f"--by: {describe_unknown(column, [DAY, *single, *log.types], 'feature or column')}")
    keys = list(request_columns(data).values())
    rows = log.collect(log.frame.select(*key_columns(log, data), pl.col(column).cast(pl.String).alias("@by")))
    items = np.concatenate([shard.item for shard in shards])
    index = pl.concat([shard.keys for shard in shards]).rename(request_columns(data))[requests.request_of]
    wanted = index.with_columns(packed.item_keys["item"].gather(items).alias(ITEM))
    joined = wanted.join(rows.unique([*keys, ITEM]), on=[*keys, ITEM], how="left", maintain_order="left")
    values, of = np.unique(joined["@by"].fill_null(MISSING).to_numpy(), return_inverse=True)
    return of, [str(value) for value in values]


def _largest(of: Index, values: Sequence[str]) -> tuple[Index, list[str]]:
    """Keep the MOST largest groups, from the largest on, and make one of the others."""
    counts = np.bincount(of, minlength=len(values))
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(values))
    names = [values[n] for n in order[:MOST]]
    if len(values) > MOST:
        names.append(OTHERS)
    return np.minimum(rank[of], MOST), names


def select_candidates(
    predictions: Predictions, truth: Truth, rows: NDArray[np.bool_]
) -> tuple[Predictions, Truth]:
    """Select candidates, (C,) bool; requests without any are left out."""
    requests = predictions.requests
    size = np.bincount(requests.request_of[rows], minlength=len(requests.size))
    kept = size > 0
    start = np.append(0, np.cumsum(size[kept], dtype=np.int64))
    selected = replace(
        predictions,
        logits={s: {n: z[rows] for n, z in by_label.items()} for s, by_label in predictions.logits.items()},
        requests=Requests(start, requests.user[kept]),
        day=predictions.day[kept],
        level=predictions.level[rows],
        exposed=predictions.exposed[rows],
        labels={name: label[rows] for name, label in predictions.labels.items()},
        weight=predictions.weight[rows],
        columns={name: values[rows] for name, values in predictions.columns.items()},
        propensity=None if predictions.propensity is None else predictions.propensity[rows],
    )
    return selected, {name: values[rows] for name, values in truth.items()}

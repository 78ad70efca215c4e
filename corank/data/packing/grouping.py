"""Candidates, one a row, brought together by request: ordered, checked; and the same check of a log not packed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Self

import numpy as np
import polars as pl

from corank.core.errors import DataError
from corank.core.types import Longs
from corank.data.log_rows import constant_columns, describe_request, log_name, request_columns
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import hash_requests
from corank.features.log_schema import ITEM, LEVEL, PROPENSITY, ROW, TIME, DataSettings, find_exposed

_BEGIN, _FIRST = "@begin", "@first"
"""A request's earliest time and first row, by which requests are ordered."""
COUNTED = 2**22
"""Rows whose items are counted by request at once, about."""


@dataclass(frozen=True)
class GroupedRequests:
    """R whole requests in the order of time, the C candidates of each in the order of the log."""

    rows: pl.DataFrame
    """A candidate each: (C,)."""
    start: Longs
    """Where each request's candidates begin, and the end: (R + 1,)."""
    duplicates: int
    """How many exact duplicates of a candidate were dropped."""

    @classmethod
    def group(cls, rows: pl.DataFrame, data: DataSettings, constant: dict[str, str]) -> Self:
        """Order and check the rows of a partition, and drop exact duplicates.

        Args:
            rows: candidates, with `log_columns`.
            data: the settings of the log.
            constant: the columns that must not change within a request, as in `constant_columns`.

        Raises:
            DataError: a constant column changes within a request, a candidate has two rows that differ, or an exposed
                candidate of a random bucket has no propensity.
        """
        request = request_columns(data)
        first = rows.group_by(list(request.values())).agg(
            pl.col(TIME).min().alias(_BEGIN), pl.col(ROW).min().alias(_FIRST)
        )
        rows = rows.join(first, on=list(request.values())).sort(_BEGIN, _FIRST, ROW).drop(_BEGIN)
        keys = {name: column for column, name in request.items()}
        rule = "within the request; it must be the same for all its candidates"
        _refuse_changes(rows, _FIRST, constant, keys, rule)
        copies = rows.filter(rows.select(_FIRST, ITEM).is_duplicated())
        if len(copies):
            copies = copies.sort(_FIRST, ITEM, ROW)
            varying = {c: log_name(c, data) for c in copies.columns if c not in (ROW, _FIRST)}
            rule = "between two rows of one candidate; keep one"
            _refuse_changes(copies, ITEM, varying, keys | {ITEM: data.item}, rule)
        kept = rows.unique([_FIRST, ITEM], keep="first", maintain_order=True) if len(copies) else rows
        if data.propensity:
            _refuse_unknown_propensities(kept, data)
        begins = np.flatnonzero(np.diff(kept[_FIRST].to_numpy(), prepend=-1))
        return cls(kept, np.append(begins, len(kept)), len(rows) - len(kept))

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def first_rows(self) -> pl.DataFrame:
        """The first candidate of each request: (R,)."""
        return self.rows[self.start[:-1]]


def _refuse_unknown_propensities(rows: pl.DataFrame, data: DataSettings) -> None:
    """Raise DataError for an exposed candidate without a propensity, if another of its request has one."""
    drawn = pl.col(PROPENSITY).is_not_null().any().over(_FIRST)
    odd = rows.filter(drawn & pl.col(PROPENSITY).is_null() & pl.Series(find_exposed(rows, data)))
    if len(odd):
        raise DataError(
            f"data.propensity: column '{data.propensity}' is null for the exposed candidate "
            f"{data.item}={odd[ITEM][0]!r} of the request {describe_request(odd, 0, data)}, of which others have one; "
            "write it for all exposed candidates of a request of the random bucket, or for none of the request"
        )


def _refuse_changes(
    rows: pl.DataFrame, within: str, columns: dict[str, str], keys: dict[str, str], rule: str
) -> None:
    """Raise DataError if a column differs from the row before, which is of the same request and `within`.

    Args:
        rows: sorted by request, then by `within`.
        within: a column.
        columns: those to check, and their names in the log.
        keys: the columns that identify the row in the message, and their names in the log.
        rule: the message's text on the change.
    """
    same = pl.all_horizontal(pl.col(key) == pl.col(key).shift(1) for key in {_FIRST, within})
    changes = [(same & pl.col(c).ne_missing(pl.col(c).shift(1))).fill_null(False).alias(c) for c in columns]
    changed = rows.select(changes)
    for name, column in columns.items():
        row = changed[name].arg_max() if changed[name].any() else None
        if row is not None:
            where = ", ".join(f"{key}={rows[k][row]!r}" for k, key in keys.items())
            raise DataError(
                f"data.log: request {where}: column '{column}' changes from {rows[name][row - 1]!r} to "
                f"{rows[name][row]!r} {rule}"
            )


def refuse_contradictions(inputs: PackSources, partitions: int) -> None:
    """Raise the DataError that grouping so many partitions of the log would raise first.

    Memory grows with the requests, not with their candidates; the columns of a request are read only if hashes of them
    show that it may be at fault.
    """
    data, log = inputs.data, inputs.log
    keys = list(request_columns(data).values())
    constant = constant_columns(data, inputs.schema, inputs.sources)
    rows = log.frame.with_row_index(ROW).select(pl.col(ROW).cast(pl.Int64), *inputs.log_columns())
    suspects = pl.concat([log.collect(frame) for frame in _suspects(inputs, rows, keys, constant)]).unique()
    part = pl.Series(hash_requests(suspects, keys, partitions))
    for number in part.unique().sort():
        of_part = suspects.filter(part == number).lazy()
        GroupedRequests.group(log.collect(rows.join(of_part, on=keys, how="semi")), data, constant)


def _suspects(
    inputs: PackSources, rows: pl.LazyFrame, keys: list[str], constant: Iterable[str]
) -> Iterator[pl.LazyFrame]:
    """Find the requests that have several values of a constant column, some propensities, or rows of one candidate."""
    data, log = inputs.data, inputs.log
    of_request = rows.select(*keys, _hash(constant).alias("constant")).group_by(keys)
    yield of_request.agg(bad=pl.col("constant").min() != pl.col("constant").max()).filter("bad").select(keys)
    if data.propensity:
        exposed = pl.lit(True) if data.level is None else pl.col(LEVEL) == len(data.levels) - 1
        has_propensity = pl.col(PROPENSITY).is_not_null()
        some = rows.group_by(keys).agg(bad=has_propensity.any() & (exposed & ~has_propensity).any())
        yield some.filter("bad").select(keys)
    values = [name for name in rows.collect_schema().names() if name not in (ROW, ITEM, *keys)]
    passes = -(-inputs.summary.rows // COUNTED)
    for n in range(passes):
        here = rows.filter(_hash(keys) % passes == n)
        twice = here.group_by(keys).agg(bad=pl.col(ITEM).n_unique() < pl.len())
        requests = log.collect(twice.filter("bad").select(keys))
        if len(requests):
            copies = here.join(requests.lazy(), on=keys, how="semi")
            hashed = copies.select(*keys, ITEM, _hash([ITEM, *values]).alias("row")).group_by(keys)
            yield (
                hashed.agg(bad=pl.col(ITEM).n_unique() < pl.col("row").n_unique()).filter("bad").select(keys)
            )


def _hash(columns: Iterable[str]) -> pl.Expr:
    """Hash the values of columns as one."""
    return reduce(xor, (pl.col(name).hash(n) for n, name in enumerate(columns)))

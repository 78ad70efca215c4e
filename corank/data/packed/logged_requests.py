"""Whole requests of packed data with their candidates: those of a shard, or some of several shards.

Letters: R requests · C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.core.ragged import Ragged, Rows, concat_ranges, concat_vectors
from corank.core.types import Floats, Ints, Longs
from corank.features.operands import Operands

Named = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class LoggedRequests:
    """R requests of a split in the order of the log, and their C candidates."""

    request_start: Longs
    """Where each request's candidates begin, and the end: (R + 1,)."""
    query: Rows
    """(R). The values of a history, and of an attribute of its items, are the events of all users."""
    user: Ints
    """Index into `PackedDataset.users`: (R,)."""
    time: Longs
    """ms since 1970 UTC: (R,)."""
    item: Ints
    """Row of `PackedDataset.items` at the request's time: (C,)."""
    level: NDArray[np.uint8]
    """(C,)"""
    labels: dict[str, NDArray[np.int8]]
    """0, 1, or -1 if unknown, as for all candidates that were not exposed: (C,)."""
    scores: dict[str, Floats]
    """Logged scores as logits, NaN if there is none: (C,)."""
    weight: Floats | None
    """(C,); None if the log does not have it."""
    position: NDArray[np.int16] | None
    """Position on the page, −1 if unknown: (C,); None if the log does not have it."""
    columns: dict[str, Floats]
    """Those of the data's `columns` that are read from the log: (C,)."""
    snapshot: Rows
    """Features of the candidates' items at a snapshot before the request: (C), without columns if there are none."""
    cross: Rows
    """(C), without columns if there are no cross features."""
    operands: Operands
    """Of the requests, histories left out: (R)."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, requests: Longs) -> "LoggedRequests":
        """Copy some requests, by position, but for the values of lists, which stay shared."""
        start = self.request_start[requests]
        size = self.request_start[requests + 1] - start
        candidates = concat_ranges(start, size)

        def select(arrays: Named) -> Named:
            return {name: values[candidates] for name, values in arrays.items()}

        return LoggedRequests(
            request_start=np.append(0, np.cumsum(size)),
            query=self.query.take(requests),
            user=self.user[requests],
            time=self.time[requests],
            item=self.item[candidates],
            level=self.level[candidates],
            labels=select(self.labels),
            scores=select(self.scores),
            weight=None if self.weight is None else self.weight[candidates],
            position=None if self.position is None else self.position[candidates],
            columns=select(self.columns),
            snapshot=self.snapshot.take(candidates),
            cross=self.cross.take(candidates),
            operands=self.operands.take(requests),
        )

    def concat(self, *others: "LoggedRequests") -> "LoggedRequests":
        """Append other requests of the same data. Values of lists are copied unless all of them share them."""
        parts = (self, *others)
        operands, *more = (part.operands.compact() for part in parts)
        return LoggedRequests(
            request_start=np.append(0, np.cumsum(np.concatenate([np.diff(p.request_start) for p in parts]))),
            query=_join_rows([part.query for part in parts]),
            user=np.concatenate([part.user for part in parts]),
            time=np.concatenate([part.time for part in parts]),
            item=np.concatenate([part.item for part in parts]),
            level=np.concatenate([part.level for part in parts]),
            labels=_join_named([part.labels for part in parts]),
            scores=_join_named([part.scores for part in parts]),
            weight=_join_known([part.weight for part in parts]),
            position=_join_known([part.position for part in parts]),
            columns=_join_named([part.columns for part in parts]),
            snapshot=_join_rows([part.snapshot for part in parts]),
            cross=_join_rows([part.cross for part in parts]),
            operands=operands.concat(*more),
        )


def _join_named(parts: Sequence[Named]) -> Named:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _join_known(parts: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """Join arrays that the log has for all requests or for none."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None


def _join_rows(parts: Sequence[Rows]) -> Rows:
    return Rows(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        tuple(_join_lists(lists) for lists in zip(*(part.lists for part in parts), strict=True)),
        tuple(concat_vectors(some) for some in zip(*(part.vectors for part in parts), strict=True)),
    )


def _join_lists(parts: Sequence[Ragged]) -> Ragged:
    """Join lists; histories, whose values are the events of all users, stay views of them."""
    shared = all(part.values is parts[0].values for part in parts)
    first, *others = parts if shared else [part.compact() for part in parts]
    return first.concat(*others)

"""Layout of network inputs: each feature's rows in the embedding tables and columns in the dense inputs.

One concatenated table a dimension. A placement's input is, dimension by dimension, the embeddings of its id
features, its pooled lists, then its numbers, and last its vectors, as they are or projected, each with a column that is
1 where there is none. Training and serving both build their inputs from here.

What attention reads of events is laid out alike: the encoded rows of events are those of their items, with a column of
ids more for each list that is `parallel_to` the history, in the order of `Schema.parallels_of`.

Letters: N rows, or lists · f features of a group · B = N·f bags · V table rows read · d dimension.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.core.ragged import Ragged, Rows
from corank.core.types import Floats, Index, Ints
from corank.features.encoding import FIRST_KNOWN, PLACEMENTS, RECORD_PLACEMENTS, Placement, VectorShape
from corank.features.schema import Schema

FEW, MANY = 512, 16_384
"""So many lists are summed at a time, so that the rows that are read stay in the processor's cache. More than many are
summed by SciPy where it is installed, to other last bits: requests that are served together have fewer."""


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
    ends = np.zeros(len(length) + 1, dtype=np.int32)
    np.cumsum(length, dtype=np.int32, out=ends[1:])
    sparse = _sparse_array() if len(length) > MANY else None
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


Columns = NDArray[np.int64]
TableSet = Mapping[int | str, Floats]
"""What stages that share embeddings read them from: by dimension the table (rows, dimension), by feature the projection
of its vectors (dimension, columns)."""


@dataclass(frozen=True)
class Bags:
    """B sums of weighted table rows: bag b is Σ weight[j]·table[row[j]], start[b] ≤ j < start[b+1]."""

    row: Ints  # (V,)
    start: Ints | None  # (B + 1,); None where every bag is one row
    weight: Floats | None  # (V,); None where all are 1
    count: int  # B

    def bag_of(self) -> Ints:
        """The bag of every row read: (V,)."""
        bags = np.arange(self.count, dtype=np.int32)
        return bags if self.start is None else np.repeat(bags, np.diff(self.start))


@dataclass(frozen=True)
class ListColumn:
    """A list feature: where its values are, and how their embeddings are pooled."""

    index: int
    """Position in `Rows.lists`."""
    offset: int
    mean: bool


@dataclass(frozen=True)
class Group:
    """The features of one placement that share a table dimension: ids first, then lists."""

    dim: int
    ids: Columns
    """Columns of `Rows.ids`."""
    offsets: Ints
    """First table row of each id feature."""
    lists: tuple[ListColumn, ...]

    @cached_property
    def width(self) -> int:
        """Columns of the dense input that the group fills."""
        return self.dim * (len(self.ids) + len(self.lists))

    def bags(self, rows: Rows) -> Bags:
        """The table rows that `rows` reads, bag by bag in the order (row, feature)."""
        single = self._codes(rows)
        if not self.lists:
            return Bags(single.ravel(), None, None, single.size)
        length = self._lengths(rows)
        start = np.zeros(length.size + 1, dtype=np.int32)
        np.cumsum(length.ravel(), out=start[1:])
        first = start[:-1].reshape(length.shape)
        row = np.empty(start[-1], dtype=np.int32)
        weight = np.ones(start[-1], dtype=np.float32)
        row[first[:, : len(self.ids)]] = single
        for column, listed in enumerate(self.lists, start=len(self.ids)):
            ragged = rows.lists[listed.index]
            position = np.repeat(first[:, column] - (np.cumsum(ragged.length) - ragged.length), ragged.length)
            position += np.arange(len(position), dtype=position.dtype)
            row[position] = ragged.flat() + listed.offset
            if listed.mean or ragged.weight is not None:
                weight[position] = _weights(ragged, listed.mean)
        return Bags(row, start, weight, length.size)

    def embed(self, rows: Rows, table: Floats, out: Floats, few: bool = False) -> None:
        """Compute the sums of `bags` without torch, into `out`: (N, width); `few` as in `embed_rows`."""
        end = len(self.ids) * self.dim
        out[:, :end] = table.take(self._codes(rows), axis=0).reshape(len(rows), end)
        for listed in self.lists:
            _pool(table, rows.lists[listed.index], listed, out[:, end : end + self.dim], few)
            end += self.dim

    def _codes(self, rows: Rows) -> Ints:
        """The table row of each id: (N, f)."""
        ids = rows.ids if len(self.ids) == rows.ids.shape[1] else rows.ids[:, self.ids]
        return ids + self.offsets

    def _lengths(self, rows: Rows) -> Ints:
        length = np.ones((len(rows), len(self.ids) + len(self.lists)), dtype=np.int32)
        for column, listed in enumerate(self.lists, start=len(self.ids)):
            length[:, column] = rows.lists[listed.index].length
        return length


def _weights(lists: Ragged, mean: bool) -> Floats:
    """What each value of `lists.flat()` counts: those of a list sum to 1 where its mean is taken."""
    weight = lists.flat_weight()
    if weight is None:
        if len(lists.length) == 1:  # of a request
            return _shares(int(lists.length[0]))
        return np.repeat(1 / np.maximum(lists.length, 1), lists.length).astype(np.float32)
    if not mean:
        return weight
    row = lists.row_of()
    whole: Floats = (weight / np.bincount(row, weight, len(lists.length))[row]).astype(np.float32)
    return whole


@lru_cache(maxsize=512)
def _shares(count: int) -> Floats:
    """The weights of the values of one list whose mean is taken, which requests share: (count,)."""
    shares = np.full(count, 1 / max(count, 1), dtype=np.float32)
    shares.flags.writeable = False
    return shares


@dataclass(frozen=True)
class VectorColumns:
    """A vector feature: where its vectors are, and how many columns it fills."""

    name: str
    index: int
    """Position in `Rows.vectors`."""
    shape: VectorShape

    @property
    def width(self) -> int:
        """Columns of the dense input."""
        return self.shape.width

    def fill(self, rows: Rows, tables: TableSet, out: Floats) -> None:
        """Write the columns of N rows into `out`: (N, width)."""
        vectors = rows.vectors[self.index]
        dense = vectors.dense()
        if self.shape.projection is None:
            out[:, :-1] = dense
        else:  # each row by itself: a product of matrices sums a row in an order that depends on the others
            np.matmul(dense[:, None], tables[self.name], out=out[:, None, :-1])
        out[:, -1] = vectors.row < 0


@dataclass(frozen=True)
class Attended:
    """What attention reads of a history: some embedded features of its items and of its events."""

    history: str
    features: tuple[str, ...]
    """The item's id first if it is an input; other item features, and lists that are `parallel_to` the history."""
    ages: bool = False
    """Whether it reads how old events are at the request."""


@dataclass(frozen=True)
class Layout:
    """Tables and inputs of a schema, given the rows that each feature's encoder needs (`Encoders.sizes`)."""

    schema: Schema
    sizes: Mapping[str, int]
    table_rows: dict[int, int] = field(init=False)
    """Rows of the concatenated table of each dimension."""
    offset: dict[str, int] = field(init=False)
    """First row of each feature that owns a table."""
    groups: dict[Placement, tuple[Group, ...]] = field(init=False)
    vectors: dict[Placement, tuple[VectorColumns, ...]] = field(init=False)

    def __post_init__(self) -> None:
        rows: dict[int, int] = {}
        offset: dict[str, int] = {}
        for name, feature in self.schema.embedded().items():
            if self.schema.table_of(name) == name:
                offset[name] = rows.get(feature.width, 0)
                rows[feature.width] = offset[name] + self.sizes[name]
        object.__setattr__(self, "table_rows", rows)
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "groups", {p: self.groups_of(p) for p in PLACEMENTS})
        object.__setattr__(self, "vectors", {p: self.vectors_of(p) for p in PLACEMENTS})

    def groups_of(self, placement: Placement, names: Collection[str] | None = None) -> tuple[Group, ...]:
        """The groups of a placement's embedded features, all or some; in the order of `columns`."""
        placed, embedded = self.schema.row_features(placement), self.schema.embedded()
        chosen = [n for n in placed.ids + placed.lists if n in embedded and (names is None or n in names)]
        groups = []
        for dim in sorted({embedded[n].width for n in chosen}):
            ids = [i for i, n in enumerate(placed.ids) if n in chosen and embedded[n].width == dim]
            lists = [i for i, n in enumerate(placed.lists) if n in chosen and embedded[n].width == dim]
            groups.append(
                Group(
                    dim,
                    np.array(ids, dtype=np.int64),
                    np.array([self.offset[placed.ids[i]] for i in ids], dtype=np.int32),
                    tuple(self._list_column(i, placed.lists[i]) for i in lists),
                )
            )
        return tuple(groups)

    def _list_column(self, index: int, name: str) -> ListColumn:
        averages = self.schema.features[name].averages
        return ListColumn(index, self.offset[self.schema.table_of(name)], averages)

    def vectors_of(
        self, placement: Placement, names: Collection[str] | None = None
    ) -> tuple[VectorColumns, ...]:
        """The columns of a placement's vectors, all or some."""
        features = self.schema.features
        return tuple(
            VectorColumns(name, index, features[name].vector)
            for index, name in enumerate(self.schema.row_features(placement).vectors)
            if features[name].is_input and (names is None or name in names)
        )

    @cached_property
    def projections(self) -> dict[str, tuple[int, int]]:
        """The shape of each feature's projection: dimension, columns."""
        shapes = {vector.name: vector.shape for vectors in self.vectors.values() for vector in vectors}
        return {n: (s.dimension, s.projection) for n, s in shapes.items() if s.projection is not None}

    def width(self, placement: Placement) -> int:
        """Columns of the placement's dense input."""
        embedded = sum(group.width for group in self.groups[placement])
        numbers = self.schema.row_features(placement).width
        return embedded + numbers + sum(vector.width for vector in self.vectors[placement])

    @property
    def record_widths(self) -> dict[str, int]:
        """The columns of the dense inputs that an item's record gives; without `snapshot` if it has no columns."""
        widths = {placement: self.width(placement) for placement in RECORD_PLACEMENTS}
        return {str(placement): width for placement, width in widths.items() if width or placement == "item"}

    def columns(self, placement: Placement, names: Iterable[str]) -> Columns:
        """The input columns of the named features, ascending."""
        wanted, placed, at = set(names), self.schema.row_features(placement), 0
        chosen: list[int] = []
        for group in self.groups[placement]:
            listed = [placed.lists[column.index] for column in group.lists]
            for name in [placed.ids[i] for i in group.ids] + listed:
                chosen += range(at, at + group.dim) if name in wanted else ()
                at += group.dim
        for name, numbers in placed.numbers_at.items():
            chosen += range(at + numbers.start, at + numbers.stop) if name in wanted else ()
        at += placed.width
        for vector in self.vectors[placement]:
            chosen += range(at, at + vector.width) if vector.name in wanted else ()
            at += vector.width
        return np.array(chosen, dtype=np.int64)

    def untrained(self) -> dict[int, Ints]:
        """Rows of each table for missing and unknown values, which begin at zero."""
        rows: dict[int, list[int]] = {dim: [] for dim in self.table_rows}
        for name, first in self.offset.items():
            rows[self.schema.embedded()[name].width] += range(first, first + FIRST_KNOWN)
        return {dim: np.array(indices, dtype=np.int32) for dim, indices in rows.items()}


def _pool(table: Floats, lists: Ragged, listed: ListColumn, out: Floats, few: bool) -> None:
    """Compute each list's sum, or mean, of weighted rows into `out`: (N, d)."""
    code = lists.flat() + listed.offset
    counts = listed.mean or lists.weight is not None
    weight = _weights(lists, listed.mean) if counts else np.ones(len(code), dtype=np.float32)
    if not few:
        out[:] = sum_weighted_rows(table, code, weight, lists.length)
        return
    read, begin = table.take(code, axis=0), 0
    for n, length in enumerate(lists.length.tolist()):
        end = begin + length
        out[n] = weight[begin:end] @ read[begin:end]
        begin = end


def embed_rows(
    rows: Rows,
    groups: Sequence[Group],
    vectors: Sequence[VectorColumns],
    tables: TableSet,
    numbers: bool = False,
    few: bool = False,
) -> Floats:
    """Compute the columns of some features of N encoded rows: embedded ones, numbers if wanted, vectors: (N, ·).

    `few`: lists are summed one after the other, in less time where they are long and few, as of queries.
    """
    between = rows.numbers.shape[1] if numbers else 0
    widths = [*(group.width for group in groups), between, *(vector.width for vector in vectors)]
    out = np.empty((len(rows), sum(widths)), dtype=np.float32)
    at = 0
    for group in groups:
        group.embed(rows, tables[group.dim], out[:, at : at + group.width], few)
        at += group.width
    if between:
        out[:, at : at + between] = rows.numbers
        at += between
    for vector in vectors:
        vector.fill(rows, tables, out[:, at : at + vector.width])
        at += vector.width
    return out


def dense_input(rows: Rows, layout: Layout, placement: Placement, tables: TableSet) -> Floats:
    """The dense input of N encoded rows of one placement: (N, width)."""
    groups, vectors, few = layout.groups[placement], layout.vectors[placement], placement == "query"
    return embed_rows(rows, groups, vectors, tables, numbers=True, few=few)


def event_groups(layout: Layout, history: str, features: Collection[str]) -> tuple[Group, ...]:
    """The groups of the embedded features that attention reads of the events of a history.

    Args:
        layout: of the tables.
        history: whose events.
        features: of items, and lists that are `parallel_to` the history.
    """
    beside = layout.schema.parallels_of(history)
    of_items = {group.dim: group for group in layout.groups_of("item", features)}
    of_events: dict[int, list[str]] = {}
    for name in (n for n in beside if n in features):
        of_events.setdefault(layout.schema.features[name].width, []).append(name)
    none = Group(0, np.empty(0, np.int64), np.empty(0, np.int32), ())
    groups = []
    for dim in sorted(of_items.keys() | of_events.keys()):
        item_group, names = of_items.get(dim, none), of_events.get(dim, [])
        # counted from the end: how many columns are before depends on the rows, be they packed or records of a bundle
        last = np.array([beside.index(n) - len(beside) for n in names], dtype=np.int64)
        offsets = np.array([layout.offset[n] for n in names], dtype=np.int32)
        ids, of_ids = np.concatenate((item_group.ids, last)), np.concatenate((item_group.offsets, offsets))
        groups.append(Group(dim, ids, of_ids, item_group.lists))
    return tuple(groups)


def event_columns(layout: Layout, history: str, features: Collection[str]) -> tuple[Columns, Columns]:
    """The columns of an event's dense input: those that its item has, in the order of `Layout.columns`, and its own.

    Args: as in `event_groups`.
    """
    of_items: list[int] = []
    of_events: list[int] = []
    at = 0
    for group in event_groups(layout, history, features):
        known = at + group.dim * int((group.ids >= 0).sum())
        listed = at + group.dim * len(group.ids)
        of_items += [*range(at, known), *range(listed, at + group.width)]
        of_events += range(known, listed)
        at += group.width
    of_items += range(at, at + sum(vector.width for vector in layout.vectors_of("item", features)))
    return np.array(of_items, dtype=np.int64), np.array(of_events, dtype=np.int64)


def event_width(layout: Layout, history: str, features: Collection[str]) -> int:
    """Columns of an event's dense input. Args: as in `event_groups`."""
    return sum(map(len, event_columns(layout, history, features)))

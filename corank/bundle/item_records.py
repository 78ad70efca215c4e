"""Item records: all that a bundle holds of every item, except its vectors.

What the arrays of a bundle hold is checked when it is opened, so that one that was altered is refused there, not by a
request. Every check reads an array once, a block at a time.

Letters: N items, or rows · V values of lists, or vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.arrays import (
    read_array,
    read_identifiers,
    read_rows,
    write_array,
    write_identifiers,
    write_rows,
)
from corank.core.errors import DataError, name_rows
from corank.core.hash_index import Keys
from corank.core.ragged import NONE, Ragged, Rows, Vectors
from corank.core.stored_matrix import DTYPES, LARGEST_SCALE, Precision, StoredMatrix
from corank.core.subnormal import flush_subnormals
from corank.core.time import NEVER
from corank.core.types import Floats, Index, Longs, Mask, Numbers
from corank.data.packed.dataset import PackedDataset
from corank.features.encoders import Encoders, assemble_rows, split_record, split_rows
from corank.features.encoding import RECORD_PLACEMENTS, Encoded
from corank.features.operands import OperandRows, Operands
from corank.features.priors import PriorSnapshots
from corank.features.row_encoder import RowEncoder
from corank.features.scale import to_numbers

BLOCK = 1 << 18
"""Values of an array that are checked at once."""


def check_form(
    array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...], where: str
) -> None:
    """Raise DataError, which names `where`, unless an array has a type and a shape."""
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{where}: expected {np.dtype(dtype)} of shape {shape}; found {array.dtype} of shape {array.shape}"
        )


def check_finite(values: Numbers, where: str, or_nan: bool = False) -> None:
    """Raise DataError if a number is not finite; `or_nan` if NaN stands for missing."""
    flat = values.reshape(-1)
    for first in range(0, len(flat), BLOCK):
        some = flat[first : first + BLOCK]
        if np.isinf(some).any() if or_nan else not np.isfinite(some).all():
            raise DataError(f"{where}: holds an infinity" + ("" if or_nan else " or NaN"))


def check_matrix(matrix: StoredMatrix, precision: Precision, shape: tuple[int, int], where: str) -> None:
    """Raise DataError unless a matrix has a precision and a shape, and all that is read of it is finite."""
    check_form(matrix.values, DTYPES[precision], shape, where)
    if precision != "int8":
        return check_finite(matrix.values, where)
    scale = np.empty(0) if matrix.scale is None else matrix.scale
    check_form(scale, np.float32, shape[:1], f"{where}: scales")
    for first in range(0, len(scale), BLOCK):
        some = scale[first : first + BLOCK]
        if not ((some >= 0) & (some <= LARGEST_SCALE)).all():
            raise DataError(f"{where}: scales: expected numbers from 0 to {LARGEST_SCALE:g}")
    return None


def check_codes(codes: Index, size: int, where: str) -> None:
    """Raise DataError unless every code is a row of a table of `size` rows."""
    if codes.size and not (codes.min() >= 0 and codes.max() < size):
        raise DataError(f"{where}: codes from {codes.min()} to {codes.max()}; the table has {size:,} rows")


def check_ascending(values: pl.Series | NDArray[Any], where: str) -> None:
    """Raise DataError unless each value is greater than the one before."""
    steps: Mask = np.asarray(values[:-1] < values[1:])
    if not steps.all():
        n = int(np.argmin(steps))
        raise DataError(f"{where}: must ascend; found {values[n]!r} before {values[n + 1]!r}")


def check_row_vectors(vectors: Vectors, count: int, width: int, where: str) -> None:
    """Raise DataError unless N rows have finite vectors of a width, or none, among their V vectors."""
    check_form(vectors.row, np.int32, (count,), f"{where}.row.npy")
    check_form(vectors.values, np.float16, (len(vectors.values), width), f"{where}.values.npy")
    if count and not (vectors.row.min() >= NONE and vectors.row.max() < len(vectors.values)):
        raise DataError(f"{where}.row.npy: a vector lies beyond the {len(vectors.values):,} that there are")
    check_finite(vectors.values, f"{where}.values.npy")


def check_ragged(lists: Ragged, count: int, dtype: type[np.generic], where: str) -> None:
    """Raise DataError unless N lists lie within their V values."""
    check_form(lists.start, np.int64, (count,), f"{where}.start")
    check_form(lists.length, np.int32, (count,), f"{where}.length")
    check_form(lists.values, dtype, (lists.values.size,), f"{where}.values")
    if not count:
        return
    if lists.start.min() < 0 or lists.length.min() < 0 or lists.start.max() > lists.values.size:
        raise DataError(f"{where}: a list begins outside of its {lists.values.size:,} values")
    if (lists.start + lists.length).max() > lists.values.size:
        raise DataError(f"{where}: a list ends beyond its {lists.values.size:,} values")


KEYS = "keys"
"""Name of the ids' files."""


@dataclass(frozen=True)
class ItemRecords:
    """N items, ascending by id."""

    ids: Keys
    rows: Rows
    """Encoded features, those of the item row and then those of the snapshot (`Schema.record_features`): (N)."""
    operands: Operands
    """Values that crosses, priors and filters read: (N)."""
    columns: Mapping[str, Floats]
    """Those of the data's `columns` that are of the items: (N,)."""

    @classmethod
    def encode(
        cls, frame: pl.DataFrame, encoders: Encoders, priors: PriorSnapshots, key: str, columns: Sequence[str]
    ) -> Self:
        """Encode items.

        Args:
            frame: a row for each item, as in the table of items; absent columns are missing values.
            encoders: the bundle's encoders.
            priors: the snapshots that derived features are computed from.
            key: the column of the id.
            columns: the data's `columns` that are of the items.

        Raises:
            DataError: a value does not fit its feature's kind.
        """
        schema = encoders.schema
        if not frame[key].is_sorted():
            frame = frame[frame[key].arg_sort()]
        absent, held = pl.Series([None] * len(frame), dtype=pl.Null), frame.to_dict()
        with name_rows(lambda row: f"{key}={frame[key][row]!r}"):
            features, operands = RowEncoder(encoders, "item").encode(held, len(frame))
        vectors = {name: values for name, values in features.items() if isinstance(values, Vectors)}
        features |= _derive(encoders, priors, operands.with_named_vectors(vectors))
        return cls(
            Keys(frame[key]),
            assemble_rows(schema.record_features, features, len(frame)),
            operands,
            {name: _to_floats(held.get(name, absent), name) for name in columns},
        )

    @classmethod
    def of_packed(
        cls,
        packed: PackedDataset,
        priors: PriorSnapshots,
        ids: pl.Series,
        row: Longs,
        times: Longs | None = None,
    ) -> Self:
        """Take item rows of packed data.

        Args:
            packed: the data.
            priors: the snapshots that derived features are computed from.
            ids: the items, ascending: (N,).
            row: of each, its row: (N,).
            times: as of which derived features are computed, ms UTC, (N,), if `priors` know several snapshots.
        """
        columns = {name: flush_subnormals(values[row]) for name, values in packed.item_columns.items()}
        taken = cls(Keys(ids), packed.items.take(row), packed.item_operands.take(row), columns)
        return taken.refresh_derived(packed.encoders, priors, times)

    def refresh_derived(self, encoders: Encoders, priors: PriorSnapshots, times: Longs | None = None) -> Self:
        """Compute the derived features again, from other snapshots of priors, or from those of some times: (N,)."""
        schema = encoders.schema
        row, _ = split_record(schema, self.rows)
        placed = schema.row_features("item")
        features = split_rows(placed, row)
        features |= _derive(encoders, priors, self.operands.with_vectors(placed, row), times)
        return replace(self, rows=assemble_rows(schema.record_features, features, len(self.rows)))

    def concat(self, other: Self) -> Self:
        """Append items whose ids are greater."""
        return type(self)(
            Keys(pl.concat([self.ids.values, other.ids.values])),
            self.rows.concat(other.rows),
            self.operands.concat(other.operands),
            {name: np.concatenate((values, other.columns[name])) for name, values in self.columns.items()},
        )

    def select(self, at: Longs) -> Self:
        """Take some records, in their order: (N)."""
        columns = {name: values[at] for name, values in self.columns.items()}
        ids = Keys(self.ids.values.gather(at))
        return replace(
            self, ids=ids, rows=self.rows.take(at), operands=self.operands.take(at), columns=columns
        )

    def merge(self, newer: Self) -> Self:
        """Add newer records, which replace those of the same items."""
        older, order = self.order_with(newer)
        return self.select(older).concat(newer).select(order).compact()

    def compact(self) -> Self:
        """Drop the lists and vectors that no record has any more."""
        return replace(self, rows=self.rows.compact())

    def order_with(self, newer: Self) -> tuple[Longs, Longs]:
        """Find how to merge newer records.

        Returns:
            The positions of the items that stay, and the order of both, the staying items and then the newer ones.
        """
        older = np.flatnonzero(newer.ids.find(self.ids.values) < 0)
        ids = pl.concat([self.ids.values.gather(older), newer.ids.values])
        return older, ids.arg_sort().to_numpy().astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write the records into a folder."""
        self.save_values(folder)
        write_identifiers(folder, KEYS, self.ids.values)

    def save_values(self, folder: Path) -> None:
        """Write all but the ids into a folder."""
        write_rows(folder, self.rows)
        if self.operands.keys or self.operands.lists or self.operands.numbers:
            self.operands.save(folder / "operands")
        for name, values in self.columns.items():
            write_array(folder / f"column.{name}.npy", values)

    @classmethod
    def load(cls, folder: Path, encoders: Encoders, columns: list[str]) -> Self:
        """Memory-map the records of a folder. Raises DataError if a part is missing, damaged or of another form."""
        schema, ids = encoders.schema, read_identifiers(folder, KEYS)
        loaded = cls(
            Keys(ids),
            read_rows(
                folder,
                [None] * len(schema.record_features.lists),
                len(schema.record_features.vectors),
            ),
            Operands.load(folder / "operands", schema.operand_names("item"), len(ids)),
            {name: read_array(folder / f"column.{name}.npy") for name in columns},
        )
        loaded.check(encoders, str(folder))
        return loaded

    def check(self, encoders: Encoders, where: str) -> None:
        """Raise DataError, which names `where`, unless the records are such as `encode` makes.

        Ids ascend, every array has a row for each of them, codes lie within the tables, numbers are finite.
        """
        schema, count = encoders.schema, len(self.ids)
        placed = schema.record_features
        check_ascending(self.ids.values, f"{where}/{KEYS}")
        check_form(self.rows.ids, np.int32, (count, len(placed.ids)), f"{where}/ids.npy")
        for n, name in enumerate(placed.ids):
            size = encoders.sizes[schema.table_of(name)]
            check_codes(self.rows.ids[:, n], size, f"{where}/ids.npy: {name}")
        check_form(self.rows.numbers, np.float32, (count, placed.width), f"{where}/numbers.npy")
        check_finite(self.rows.numbers, f"{where}/numbers.npy")
        for n, (name, lists) in enumerate(zip(placed.lists, self.rows.lists, strict=True)):
            check_ragged(lists, count, np.int32, f"{where}/list{n}")
            check_codes(
                lists.values, encoders.sizes[schema.table_of(name)], f"{where}/list{n}.values: {name}"
            )
        for n, (name, vectors) in enumerate(zip(placed.vectors, self.rows.vectors, strict=True)):
            check_row_vectors(vectors, count, schema.features[name].vector.dimension, f"{where}/vector{n}")
        for n, keys in enumerate(self.operands.keys.values()):
            check_form(keys, np.uint64, (count,), f"{where}/operands/key{n}.npy")
        for n, lists in enumerate(self.operands.lists.values()):
            check_ragged(lists, count, np.uint64, f"{where}/operands/list{n}")
        for n, numbers in enumerate(self.operands.numbers.values()):
            check_form(numbers, np.float64, (count,), f"{where}/operands/number{n}.npy")
            check_finite(numbers, f"{where}/operands/number{n}.npy", or_nan=True)
        for name, column in self.columns.items():
            check_form(column, np.float32, (count,), f"{where}/column.{name}.npy")


def _derive(
    encoders: Encoders, priors: PriorSnapshots, operands: Operands, times: Longs | None = None
) -> dict[str, Encoded]:
    """Compute the derived features of items, at the priors' snapshots or at times, (N,), and encode them."""
    sides, features = (
        OperandRows.alone(encoders.schema.operand_placements, "item", operands),
        dict[str, Encoded](),
    )
    at = np.full(operands.count, NEVER) if times is None else times
    for placement in RECORD_PLACEMENTS:
        features |= RowEncoder(encoders, placement).derive(sides, priors, at)
    return features


def _to_floats(values: pl.Series, name: str) -> Floats:
    """Read values as float32, NaN for null: (N,). Raises DataError for what is no such number."""
    numbers = to_numbers(values, name)
    largest = np.nanmax(np.abs(numbers), initial=0)
    if largest > np.finfo(np.float32).max:
        raise DataError(f"column '{name}': {largest:g} is too large for a 32-bit float")
    return flush_subnormals(numbers.astype(np.float32))

"""Files of vectors beside the tables of items and users: a `.npy` and the ids of its rows, or a table."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.hash_index import Keys
from corank.core.storage.object_url import is_url
from corank.data.source_files import find_source_files
from corank.data.tables import Table
from corank.features.feature_kind import Side
from corank.features.schema import Schema


@dataclass(frozen=True)
class VectorFile:
    """The vectors of one feature, looked up by the ids of rows."""

    table: str
    """`items` or `users`."""
    feature: str
    key: str
    """The column of the id, in the tables as in a file that is a table."""
    column: str
    """The column of the vectors, in a file that is a table."""
    file: str
    ids: str | None
    base: Path
    """What paths are relative to."""
    dimension: int

    def __call__(self, ids: pl.Series) -> pl.Series:
        """Look up the vectors of some ids, null or zeros for one that the file lacks: (N,). Raises DataError."""
        keys, vectors = self._read_table() if self.ids is None else self._read_array(self.ids)
        if keys.dtype != ids.dtype:
            raise DataError(
                f"{self._where}: its ids are {keys.dtype}; expected {ids.dtype}, as in data.{self.table}"
            )
        order = keys.arg_sort()
        ascending = keys.gather(order)
        twice = ascending.filter(ascending.is_duplicated())
        if len(twice) or keys.null_count():
            odd = f"{self.key}={twice[0]!r} twice" if len(twice) else "an id that is null"
            raise DataError(f"{self._where}: has {odd}; write one vector an id")
        found = Keys(ascending).find(ids)
        if len(ids) and (found < 0).all():
            raise DataError(
                f"{self._where}: none of its {len(keys):,} ids, such as {keys.head(3).to_list()}, is in "
                f"data.{self.table}"
            )
        known = found >= 0
        position = np.where(known, order.to_numpy()[found], 0)
        if isinstance(vectors, pl.Series):
            return vectors.gather(pl.Series(position).set(pl.Series(~known), None)).alias(self.column)
        taken = np.zeros((len(ids), self.dimension), dtype=np.float32)
        taken[known] = vectors[position[known]]
        return pl.Series(self.column, taken)

    @property
    def _where(self) -> str:
        """For messages."""
        return f"features.{self.feature}.file: {self.file}"

    def _read_table(self) -> tuple[pl.Series, pl.Series]:
        """Read ids and vectors of a table."""
        table = Table.scan(f"{self.table} ({self._where})", self.file, self.base)
        table.require([self.key, self.column])
        frame = table.collect(table.frame.select(table.key(self.key).alias("id"), self.column))
        return frame["id"], frame[self.column]

    def _read_array(self, ids: str) -> tuple[pl.Series, NDArray[Any]]:
        """Map the vectors of a `.npy` file, and read the ids of its rows."""
        vectors = self._load(self.file)
        if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or vectors.shape[1] != self.dimension:
            raise DataError(
                f"{self._where}: expected numbers of shape (rows, {self.dimension}), as features.{self.feature}.dim "
                f"says; found {vectors.dtype} of shape {vectors.shape}"
            )
        keys = self._read_ids(ids)
        if len(keys) != len(vectors):
            raise DataError(
                f"{self._where}: has {len(vectors):,} vectors, and {ids} {len(keys):,} ids; write one id a vector"
            )
        return keys, vectors

    def _read_ids(self, ids: str) -> pl.Series:
        if not ids.endswith(".npy"):
            table = Table.scan(f"{self.table} (features.{self.feature}.ids)", ids, self.base)
            return table.collect(table.frame.select(table.key(self.key))).to_series()
        held = self._load(ids)
        if held.ndim != 1 or held.dtype.kind not in "iuU":
            raise DataError(
                f"features.{self.feature}.ids: {ids}: expected whole numbers or text, one for each vector; found "
                f"{held.dtype} of shape {held.shape}"
            )
        series = pl.Series(np.asarray(held))
        return series if series.dtype == pl.String else series.cast(pl.Int64)

    def _load(self, name: str) -> NDArray[Any]:
        """Map a `.npy` file. Raises DataError."""
        if is_url(name):
            raise DataError(f"features.{self.feature}: {name}: a .npy file must be on this machine")
        (source, *_) = find_source_files(name, self.base)
        try:
            found = np.load(source.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"features.{self.feature}: {name}: no .npy file of numbers: {error}") from None
        if not isinstance(found, np.ndarray):
            raise DataError(f"features.{self.feature}: {name}: holds several arrays; write one as .npy")
        return found


_SIDES: dict[str, Side] = {"items": "item", "users": "user"}


def with_vector_files(table: Table, key: str, schema: Schema, base: Path, only_absent: bool = False) -> Table:
    """Add the columns of files of vectors to the table of items or of users.

    Args:
        table: the table.
        key: its column of ids.
        schema: the features, some of which may name a file.
        base: what paths are relative to.
        only_absent: leave out files of columns that the table has itself.

    Raises:
        DataError: a file is missing, or another feature reads a column of the same name.
    """
    found = {}
    for name, feature in schema.columns().items():
        if not feature.vector.files or feature.side != _SIDES[table.name]:
            continue
        column, (file, *ids) = schema.column(name), feature.vector.files
        if column in table.types and only_absent:
            continue
        if column in table.types or column in found:
            raise DataError(
                f"features.{name}.file: there is a column '{column}' beside this file's; drop `file`, or name "
                "another `column`"
            )
        for path in feature.vector.files:
            find_source_files(path, base)
        found[column] = VectorFile(
            table.name, name, key, column, file, ids[0] if ids else None, base, feature.vector.dimension
        )
    kinds = {column: pl.Array(pl.Float32, held.dimension) for column, held in found.items()}
    return replace(table, types=pl.Schema({**table.types, **kinds}), beside=found) if found else table

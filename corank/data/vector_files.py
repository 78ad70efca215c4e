"""Files of vectors in addition to the tables of items and users: a `.npy` and the ids of its rows, or a table."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.hash_index import Keys
from corank.core.objects import is_url
from corank.core.types import Index
from corank.data.tables import Table, find_source_files
from corank.engine.base import SentByFields
from corank.features.feature_kind import Side
from corank.features.log_schema import ID
from corank.features.schema import Schema


@dataclass(frozen=True)
class VectorFile(SentByFields):
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

    def check(self, ids: pl.Series) -> None:
        """Check the file, and that it has a vector for some of all ids of the table. Raises DataError."""
        keys = self._keys.values
        if keys.dtype != ids.dtype:
            raise DataError(
                f"{self._where}: its ids are {keys.dtype}; expected {ids.dtype}, as in data.{self.table}"
            )
        if len(ids) and (self._keys.find(ids) < 0).all():
            first = self._ids[:3].to_list()
            raise DataError(
                f"{self._where}: none of its {len(keys):,} ids, such as {first}, is in data.{self.table}"
            )

    def __call__(self, ids: pl.Series) -> pl.Series:
        """Look up the vectors of some ids, null or zeros for one that the file lacks: (N,). Raises DataError."""
        if self.ids is None:
            table = self._scan()
            chosen = table.frame.select(table.key(self.key).alias(ID), self.column)
            wanted = pl.LazyFrame({ID: ids.unique()})
            rows = table.collect(chosen.join(wanted, on=ID, how="semi"))
            return ids.to_frame(ID).join(rows, on=ID, how="left", maintain_order="left")[self.column]
        positions = self._keys.find(ids)
        known = positions >= 0
        taken = np.zeros((len(ids), self.dimension), dtype=np.float32)
        taken[known] = self._vectors[self._order[positions[known]]]
        return pl.Series(self.column, taken)

    @property
    def _where(self) -> str:
        """For messages."""
        return f"features.{self.feature}.file: {self.file}"

    @cached_property
    def _keys(self) -> Keys:
        """The ids, ascending. Raises DataError if one is duplicate."""
        ascending = self._ids.sort()
        twice = ascending.filter(ascending.is_duplicated())
        if len(twice) or ascending.null_count():
            odd = f"{self.key}={twice[0]!r} twice" if len(twice) else "an id that is null"
            raise DataError(f"{self._where}: has {odd}; write one vector an id")
        return Keys(ascending)

    @cached_property
    def _order(self) -> Index:
        """The row of each id in a `.npy` file."""
        order: Index = self._ids.arg_sort().to_numpy()
        return order

    @cached_property
    def _vectors(self) -> NDArray[Any]:
        """Those of a `.npy` file, mapped. Raises DataError."""
        vectors = self._load(self.file)
        if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or vectors.shape[1] != self.dimension:
            raise DataError(
                f"{self._where}: expected numbers of shape (rows, {self.dimension}), as features.{self.feature}.dim "
                f"says; found {vectors.dtype} of shape {vectors.shape}"
            )
        return vectors

    def _scan(self) -> Table:
        """Open a file that is a table."""
        table = Table.scan(f"{self.table} ({self._where})", self.file, self.base)
        table.require([self.key, self.column])
        return table

    @cached_property
    def _ids(self) -> pl.Series:
        """The ids of the rows of the file, in their order. Raises DataError."""
        if self.ids is not None and self.ids.endswith(".npy"):
            array = self._load(self.ids)
            if array.ndim != 1 or array.dtype.kind not in "iuU":
                raise DataError(
                    f"features.{self.feature}.ids: {self.ids}: expected whole numbers or text, one for each vector; "
                    f"found {array.dtype} of shape {array.shape}"
                )
            keys = pl.Series(np.asarray(array))
            keys = keys if keys.dtype == pl.String else keys.cast(pl.Int64)
        else:
            name = f"{self.table} (features.{self.feature}.ids)"
            table = self._scan() if self.ids is None else Table.scan(name, self.ids, self.base)
            keys = table.collect(table.frame.select(table.key(self.key))).to_series()
        if self.ids is not None and len(keys) != len(self._vectors):
            raise DataError(
                f"{self._where}: has {len(self._vectors):,} vectors, and {self.ids} {len(keys):,} ids; write one id "
                "a vector"
            )
        return keys

    def _load(self, name: str) -> NDArray[Any]:
        """Map a `.npy` file. Raises DataError."""
        if is_url(name):
            raise DataError(f"features.{self.feature}: {name}: a .npy file must be on this machine")
        (source, *_) = find_source_files(name, self.base)
        try:
            array = np.load(source.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"features.{self.feature}: {name}: no .npy file of numbers: {error}") from None
        if not isinstance(array, np.ndarray):
            raise DataError(f"features.{self.feature}: {name}: holds several arrays; write one as .npy")
        return array


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
        DataError: a file is missing, has ids of another type or none of the table's, or another feature reads a column
            of the same name.
    """
    vector_files: dict[str, VectorFile] = {}
    for name, feature in schema.columns().items():
        if not feature.vector.files or feature.side != _SIDES[table.name]:
            continue
        column, (file, *ids) = schema.column(name), feature.vector.files
        if column in table.types and only_absent:
            continue
        if column in table.types or column in vector_files:
            raise DataError(
                f"features.{name}.file: there is a column '{column}' beside this file's; drop `file`, or name "
                "another `column`"
            )
        for path in feature.vector.files:
            find_source_files(path, base)
        vector_files[column] = VectorFile(
            table.name, name, key, column, file, ids[0] if ids else None, base, feature.vector.dimension
        )
    if not vector_files:
        return table
    every, kinds = table.distinct(key), {}
    for column, vector_file in vector_files.items():
        vector_file.check(every)
        kinds[column] = pl.Array(pl.Float32, vector_file.dimension)
    return replace(table, types=pl.Schema({**table.types, **kinds}), beside=vector_files)

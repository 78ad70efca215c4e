"""Features → codes and numbers: fitted once on training rows, applied anywhere, offline as online."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.files import is_plain_name, parse_json, read_regular_file
from corank.core.ragged import Ragged, Rows, Vectors
from corank.core.subnormal import flush_subnormals
from corank.core.types import Doubles, Hashes, Ints, Longs
from corank.features.encoding import Column, Encoded, Encoder, Hash, RowFeatures, Vocabulary
from corank.features.operands import OperandNames, Operands
from corank.features.schema import Schema

FILE = "encoders.json"
"""The file that names the encoder of each feature."""
MOST_BYTES = 1 << 28
"""Bytes of it, at most."""


def map_encoder_files(folder: Path) -> list[bytes | mmap]:
    """Map the files that `Encoders.save` wrote: the name and the bytes of each. Raises OSError."""
    parts: list[bytes | mmap] = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            mapped = mmap(file.fileno(), 0, access=ACCESS_READ) if path.stat().st_size else b""
        parts += path.name.encode(), mapped
    return parts


def assemble_rows(features: RowFeatures, columns: Mapping[str, Encoded], count: int) -> Rows:
    """Put encoded features, by name, together as `count` rows of a placement."""
    ids = np.empty((count, len(features.ids)), dtype=np.int32)
    for n, name in enumerate(features.ids):
        ids[:, n] = cast(Ints, columns[name])
    numbers = np.empty((count, features.width), dtype=np.float32)
    for name, at in features.numbers_at.items():
        numbers[:, at] = cast(Column, columns[name]).reshape(count, at.stop - at.start)
    lists = tuple(cast(Ragged, columns[name]) for name in features.lists)
    vectors = tuple(cast(Vectors, columns[name]) for name in features.vectors)
    return Rows(ids, flush_subnormals(numbers), lists, vectors)


def split_rows(features: RowFeatures, rows: Rows) -> dict[str, Encoded]:
    """Take rows apart into encoded features, by name: the reverse of `assemble`."""
    columns: dict[str, Encoded] = dict(zip(features.ids, rows.ids.T, strict=True))
    columns |= {name: rows.numbers[:, at] for name, at in features.numbers_at.items()}
    columns |= dict(zip(features.lists, rows.lists, strict=False))
    return columns | dict(zip(features.vectors, rows.vectors, strict=False))


def split_record(schema: Schema, record: Rows) -> tuple[Rows, Rows]:
    """Take the rows of items' records apart into item rows and snapshot rows, as views: (N), (N)."""
    row = schema.row_features("item")
    ids, numbers, lists = len(row.ids), row.width, len(row.lists)
    item = Rows(record.ids[:, :ids], record.numbers[:, :numbers], record.lists[:lists], record.vectors)
    return item, Rows(record.ids[:, ids:], record.numbers[:, numbers:], record.lists[lists:])


@dataclass(frozen=True)
class Encoders:
    """The fitted encoder of each feature; a history has that of the feature it is `of`.

    The vocabularies of the item id and the user id hold the ids with at least `min_count` training rows of
    the log: an id never trained on is encoded as unknown, whose embedding is trained, rather than as a row of
    noise. Other item (user) features are fitted on the rows of `items` (`users`).
    """

    schema: Schema
    fitted: dict[str, Encoder]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Embedding rows of each feature that owns a table."""
        embedded = self.schema.embedded()
        return {n: encoder.size for n, encoder in self.fitted.items() if encoder.size and n in embedded}

    def encode(self, name: str, values: pl.Series) -> Encoded:
        """Encode the raw values of a feature of a column: codes or numbers, lists of codes, or vectors.

        Raises DataError, which names the feature and the value, for values of another type than in training, NaN
        and infinities.
        """
        return self.schema.columns()[name].encode(self.fitted.get(name), values, name)

    @cached_property
    def _of_lists(self) -> dict[str, Encoder]:
        """By feature, the encoder of the one that owns its table, as that of a history's items does."""
        owners = {name: self.schema.table_of(name) for name in self.schema.features}
        return {name: self.fitted[owner] for name, owner in owners.items() if owner in self.fitted}

    def codes(self, name: str, values: pl.Series | Longs) -> Ints:
        """Encode single values of a list, whole numbers also as an array: (N,). Raises DataError as `encode` does."""
        encoder = self._of_lists[name]
        assert isinstance(encoder, Vocabulary | Hash)
        if isinstance(values, pl.Series):
            return encoder.codes(values, name)
        return encoder.codes(pl.Series(values), name) if encoder.text else encoder.codes_of_numbers(values)

    def operands(self, wanted: OperandNames, column: Callable[[str], pl.Series], count: int) -> Operands:
        """Compute them from the raw values of each feature. Raises DataError for values that its kind cannot take."""
        features, fitted = self.schema.columns(), self.fitted
        return Operands(
            count,
            {n: features[n].keys(fitted.get(n), column(n), n) for n in wanted.keys},
            {n: features[n].lists(column(n), n) for n in wanted.lists},
            {n: features[n].numbers(column(n), n) for n in wanted.numbers},
        )

    def encode_derived(self, name: str, values: Hashes | Doubles) -> Column:
        """Encode the values of a derived feature: hashes (0 for missing) or numbers (NaN)."""
        return self.schema.derived()[name].encode(self.fitted.get(name), values)

    def save(self, folder: Path) -> None:
        """Write `encoders.json`, and the values of each vocabulary."""
        folder.mkdir(parents=True, exist_ok=True)
        plain: dict[str, Any] = {}
        for n, (name, encoder) in enumerate(self.fitted.items()):
            plain[name] = {"is": type(encoder).__name__.lower(), **encoder.dump(folder, n)}
        (folder / FILE).write_bytes(json.dumps(plain, indent=1).encode())

    @classmethod
    def load(cls, folder: Path, schema: Schema, derived: bool = True) -> Self:
        """Read what `save` wrote, for `derived` features too. Raises DataError if a part is missing or damaged."""
        try:
            plain = parse_json(read_regular_file(folder, FILE, MOST_BYTES))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: encoders cannot be read: {error}") from None
        if not isinstance(plain, dict):
            raise DataError(f"{folder}: encoders cannot be read: expected a mapping; found {plain!r:.100}")
        loaded = cls(schema, {name: _load(folder, schema, name, fields) for name, fields in plain.items()})
        for name, feature in schema.features.items():
            column = feature.as_column is not None and schema.table_of(name) == name
            own = column or (derived and feature.as_derived is not None)
            if feature.encoders and own and name not in loaded.fitted:
                raise DataError(f"{folder}: encoders cannot be read: {name}: has none")
        return loaded


def _load(folder: Path, schema: Schema, name: str, fields: Any) -> Encoder:
    """Read the encoder of one feature. Raises DataError."""
    where, feature = f"{folder}: encoders cannot be read: {name}", schema.features.get(name)
    if feature is None or not isinstance(fields, dict):
        raise DataError(f"{where}: {'is no feature' if feature is None else f'found {fields!r:.100}'}")
    classes = {encoder.__name__.lower(): encoder for encoder in feature.encoders}
    kind, file = fields.get("is"), fields.get("file", FILE)
    if not isinstance(kind, str) or kind not in classes:
        raise DataError(f"{where}: expected one of {', '.join(classes)}; found {kind!r:.100}")
    if not is_plain_name(file):
        raise DataError(f"{where}: expected the name of a file in this folder; found {file!r:.100}")
    try:
        encoder = classes[kind].load(folder, {key: value for key, value in fields.items() if key != "is"})
        encoder.check()
    except (DataError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise DataError(f"{where}: {error}") from None
    if bool(encoder.size) != (feature.storage in ("id", "list")):
        raise DataError(f"{where}: {kind} does not fit a feature of kind {feature.kind}")
    return encoder


def hashes_to_series(values: NDArray[Any]) -> pl.Series:
    """Hashes as the values of a vocabulary or a hash: signed, null for 0."""
    assert values.dtype == np.uint64
    series = pl.Series(values.view(np.int64))
    return series if values.all() else series.set(pl.Series(values == 0), None)

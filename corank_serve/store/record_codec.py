"""Item records as bytes: an item's parts and its encoded row, as a store holds them under the item's key.

A record is a fixed part, packed little-endian, then the values of its lists, 8 bytes each. The fixed part begins with
a CRC-32 of the model version, of the key and of all that follows. A checksum that nothing follows is the record of an
item that was removed. `RecordFormat.fields` tells what lies where, so that
other programs can read a vector out.

Letters: N items · d width of an item part, or dimension of a vector feature.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.bundle.item_layers import ItemLayer
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import ItemPart
from corank.core.errors import StoreError
from corank.core.hash_index import Keys
from corank.core.ragged import Ragged, Rows, Vectors
from corank.core.stored_matrix import DTYPES, StoredMatrix
from corank.features.operands import OperandNames, Operands

CRC = 4
"""Bytes of the checksum."""
NUMBER_KEY = 9
"""Bytes of the key of a whole number."""
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class RecordFormat:
    """The layout of the records of one model version."""

    model: str
    """The model version."""
    ids: int
    """Number of id features of an item."""
    numbers: int
    """Number of numbers of an item's row."""
    lists: int
    """Number of list features of an item."""
    contents: tuple[int, ...]
    """Dimension of each vector feature of an item."""
    operands: OperandNames
    columns: tuple[str, ...]
    """Columns of an item that values of stages name."""
    parts: tuple[ItemPart, ...]

    @classmethod
    def from_manifest(cls, manifest: BundleManifest) -> Self:
        """Derive the layout from a bundle's manifest."""
        schema = manifest.declared
        placed = schema.record_features
        return cls(
            manifest.model_version,
            len(placed.ids),
            placed.width,
            len(placed.lists),
            tuple(schema.features[name].vector.dimension for name in placed.vectors),
            schema.operand_names("item"),
            tuple(manifest.item_columns),
            tuple(part for stage in manifest.stages for part in stage.parts),
        )

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type of the fixed part."""
        fields: list[tuple[str, str, tuple[int, ...]]] = [("crc", "<u4", ())]
        for part, d, precision in self.parts:
            kind = np.dtype(DTYPES[precision]).newbyteorder("<").str
            fields += [(f"part.{part}", kind, (d,))]
            fields += [(f"scale.{part}", "<f4", ())] if precision == "int8" else []
        fields += [(f"content.{n}", "<f2", (d,)) for n, d in enumerate(self.contents)]
        fields += [("ids", "<i4", (self.ids,)), ("numbers", "<f4", (self.numbers,))]
        fields += [("columns", "<f4", (len(self.columns),))]
        fields += [
            ("keys", "<u8", (len(self.operands.keys),)),
            ("values", "<f8", (len(self.operands.numbers),)),
        ]
        fields += [("lengths", "<i4", (self.lists + len(self.operands.lists),))]
        return np.dtype(fields)

    @property
    def fields(self) -> dict[str, tuple[int, str, int]]:
        """The fields of the fixed part: offset in bytes, type as numpy writes it, and count."""
        layout = {}
        for name, (kind, offset, *_) in (self.dtype.fields or {}).items():
            base, shape = kind.subdtype or (kind, ())
            layout[name] = (int(offset), base.str, int(np.prod(shape)))
        return layout

    def encode(self, layer: ItemLayer, index: NDArray[np.int64]) -> list[tuple[bytes, bytes]]:
        """Encode the items of a layer at `index` as keys and records."""
        rows, operands = layer.records.rows.take(index), layer.records.operands.take(index)
        fixed = np.zeros(len(index), dtype=self.dtype)
        fixed["ids"], fixed["numbers"] = rows.ids, rows.numbers
        for part, _, _ in self.parts:
            stored = layer.parts[part].select(index)
            fixed[f"part.{part}"] = stored.values
            if stored.scale is not None:
                fixed[f"scale.{part}"] = stored.scale
        for n, vectors in enumerate(rows.vectors):
            fixed[f"content.{n}"] = vectors.with_missing()[:, :-1]
        for n, name in enumerate(self.columns):
            fixed["columns"][:, n] = layer.records.columns[name][index]
        for n, name in enumerate(self.operands.keys):
            fixed["keys"][:, n] = operands.keys[name]
        for n, name in enumerate(self.operands.numbers):
            fixed["values"][:, n] = operands.numbers[name]
        lists = [*rows.lists, *(operands.lists[name] for name in self.operands.lists)]
        for n, values in enumerate(lists):
            fixed["lengths"][:, n] = values.length
        return self._seal(to_keys(layer.records.ids.values[index]), fixed, lists)

    def _seal(
        self, keys: Sequence[bytes], fixed: NDArray[Any], lists: Sequence[Ragged]
    ) -> list[tuple[bytes, bytes]]:
        """Join each record: checksum, fixed part, the values of its lists; return keys and records."""
        size, whole = fixed.dtype.itemsize, fixed.tobytes()
        ends = [(np.append(0, np.cumsum(values.length, dtype=np.int64)) * 8).tolist() for values in lists]
        flats = [_eight(values.flat()).tobytes() for values in lists]
        records = []
        for n, key in enumerate(keys):
            body = whole[n * size + CRC : (n + 1) * size]
            for end, flat in zip(ends, flats, strict=True):
                body += flat[end[n] : end[n + 1]]
            records.append((key, self._checksum(key, body) + body))
        return records

    def _checksum(self, key: bytes, body: bytes) -> bytes:
        return zlib.crc32(body, zlib.crc32(key, self._seed)).to_bytes(CRC, "little")

    @cached_property
    def _seed(self) -> int:
        return zlib.crc32(self.model.encode())

    def is_intact(self, key: bytes, record: bytes) -> bool:
        """Whether a record is undamaged, belongs to its key, and is of this model version."""
        return len(record) >= self.dtype.itemsize and record[:CRC] == self._checksum(key, record[CRC:])

    def removal(self, key: bytes) -> bytes:
        """The record that says that an item was removed: a checksum of nothing."""
        return self._checksum(key, b"")

    def is_removal(self, key: bytes, record: bytes) -> bool:
        """Whether an undamaged record of this model version says that an item was removed."""
        return record == self.removal(key)

    def removed_ids(self, records: Mapping[bytes, bytes]) -> pl.Series | None:
        """The ids of records that say that an item was removed; None if there are none. Raises StoreError."""
        keys = sorted(key for key, record in records.items() if self.is_removal(key, record))
        if not keys:
            return None
        _check_keys(keys)
        return to_ids(keys)

    def decode(self, records: Mapping[bytes, bytes], verify: bool = True) -> ItemLayer:
        """Decode N records by key to a layer, in the order of the keys.

        Args:
            records: by key.
            verify: whether checksums are compared, a third of the time; not needed where one of all records is.

        Raises StoreError for a record that is damaged or of another model version.
        """
        keys = sorted(records)
        _check_keys(keys)
        ids, values = to_ids(keys), [records[key] for key in keys]
        verify = verify or min(map(len, values)) < self.dtype.itemsize
        for key, value in zip(keys, values, strict=True) if verify else ():
            if not self.is_intact(key, value):
                raise StoreError(
                    f"the record of item {to_ids([key])[0]!r} is damaged, or of another model version; publish again"
                )
        size = self.dtype.itemsize
        fixed = np.frombuffer(b"".join([value[:size] for value in values]), dtype=self.dtype)
        lengths = np.ascontiguousarray(fixed["lengths"])
        sizes = size + 8 * lengths.sum(1, dtype=np.int64)
        if (lengths < 0).any() or sizes.tolist() != list(map(len, values)):
            raise StoreError("the records are not of the form that this release writes; publish again")
        tail = np.frombuffer(b"".join([value[size:] for value in values]), dtype="<i8")
        ends = np.cumsum(lengths.ravel(), dtype=np.int64)
        starts = (ends - lengths.ravel()).reshape(lengths.shape)
        codes, hashed = tail.astype(np.int32), tail.view(np.uint64)
        rows = Rows(
            np.ascontiguousarray(fixed["ids"]),
            np.ascontiguousarray(fixed["numbers"]),
            tuple(Ragged(starts[:, n], lengths[:, n], codes).compact() for n in range(self.lists)),
            tuple(Vectors.of(np.ascontiguousarray(fixed[f"content.{n}"])) for n in range(len(self.contents))),
        )
        operands = Operands(
            len(fixed),
            {name: np.ascontiguousarray(fixed["keys"][:, n]) for n, name in enumerate(self.operands.keys)},
            {
                name: Ragged(starts[:, n], lengths[:, n], hashed).compact()
                for n, name in enumerate(self.operands.lists, start=self.lists)
            },
            {
                name: np.ascontiguousarray(fixed["values"][:, n])
                for n, name in enumerate(self.operands.numbers)
            },
        )
        columns = {name: np.ascontiguousarray(fixed["columns"][:, n]) for n, name in enumerate(self.columns)}
        parts = {
            part: StoredMatrix(
                np.ascontiguousarray(fixed[f"part.{part}"]),
                np.ascontiguousarray(fixed[f"scale.{part}"]) if precision == "int8" else None,
            )
            for part, _, precision in self.parts
        }
        return ItemLayer(ItemRecords(Keys(ids), rows, operands, columns), parts)


def _eight(values: NDArray[Any]) -> NDArray[Any]:
    """Convert codes or hashes to 8 bytes each."""
    return values.astype("<u8" if values.dtype == np.uint64 else "<i8", copy=False)


def to_keys(ids: pl.Series) -> list[bytes]:
    """Convert ids to keys: `i` and the number, big-endian, its sign flipped; or `s` and the text in UTF-8."""
    if ids.dtype == pl.String:
        return [b"s" + value.encode() for value in ids.to_list()]
    flipped = (ids.to_numpy().view(np.uint64) ^ _SIGN).astype(">u8").tobytes()
    return [b"i" + flipped[n : n + 8] for n in range(0, len(flipped), 8)]


def _check_keys(keys: Sequence[bytes]) -> None:
    """Raise StoreError unless keys, in their order, are what `to_keys` makes of ids of one type."""
    if keys[0][:1] != keys[-1][:1]:
        raise StoreError("the keys of items mix whole numbers and text; publish again")
    for key in keys:
        if not is_key(key):
            raise StoreError(f"{key[:40]!r} is no key of an item; publish again")


def is_key(key: bytes) -> bool:
    """Whether a key is one that `to_keys` makes."""
    if key[:1] == b"i":
        return len(key) == NUMBER_KEY
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return key[:1] == b"s"


def to_ids(keys: Iterable[bytes]) -> pl.Series:
    """Convert keys to ids, all of one type."""
    keys = list(keys)
    if keys and keys[0][:1] == b"s":
        return pl.Series("item", [key[1:].decode() for key in keys], dtype=pl.String)
    flipped = np.frombuffer(b"".join([key[1:] for key in keys]), dtype=">u8").astype(np.uint64) ^ _SIGN
    return pl.Series("item", flipped.view(np.int64))

"""Packed data: request-major arrays of one log, memory-mapped."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from corank.core.arrays import map_table, read_array, read_frame, read_ragged
from corank.core.errors import DataError
from corank.core.ragged import Ragged, Rows
from corank.core.types import Floats, Ints, Longs
from corank.data.as_of import VersionedRows, newest_rows
from corank.data.pack_manifest import PACK_AGAIN, PackManifest, identify_pack, read_pack_manifest
from corank.features.encoders import Encoders
from corank.features.history import Events
from corank.features.log_schema import DataSettings
from corank.features.operands import OperandNames, Operands
from corank.features.priors import PriorCounts, PriorSnapshots
from corank.features.row_columns import FROM, ID, ROW
from corank.features.schema import Placement, Schema


@dataclass(frozen=True)
class Shard:
    """R requests of a split in the order of time, and their C candidates in the order of the log."""

    folder: Path
    request_start: Longs
    """Where each request's candidates begin, and the end: (R + 1,)."""
    query: Rows
    """(R). The values of a history, and of an attribute of its items, are the events of all users."""
    user: Ints
    """Index into `PackedDataset.users`: (R,)."""
    time: Longs
    """ms since 1970 UTC: (R,)."""
    item: Ints
    """Row of `PackedDataset.items` as of the request's time: (C,)."""
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
    cross: Rows
    """(C), without columns if there are no cross features."""
    truth: dict[str, Floats]
    """True probabilities, for labels of the table of truth: (C,)."""
    operands: Operands
    """Of the requests, histories left out: (R)."""
    key_table: pa.Table
    """The request key's columns: (R,)."""

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def keys(self) -> pl.DataFrame:
        """The request key's columns: (R,)."""
        return pl.DataFrame(self.key_table)

    def request_key(self, row: int) -> dict[str, Any]:
        """Return the request key of one request, by column."""
        return self.keys.row(row, named=True)

    @classmethod
    def open(cls, folder: Path, manifest: PackManifest, schema: Schema, events: dict[str, Events]) -> Self:
        """Memory-map a shard. Raises DataError."""

        def array(name: str) -> NDArray[Any]:
            return read_array(folder / f"{name}.npy")

        data, labels = manifest.data, manifest.data.labels
        logged = [name for name in data.columns if name not in manifest.item_columns]
        start, query = array("request_start"), folder / "query"
        return cls(
            folder,
            start,
            _rows(query, _query_lists(query, schema, events)),
            array("user"),
            array("time"),
            array("item"),
            array("level"),
            {name: array(f"label.{name}") for name in labels},
            {name: array(f"score.{name}") for name in data.scores},
            array("weight") if data.weight else None,
            array("position") if data.position else None,
            {name: array(f"column.{name}") for name in logged},
            _rows(
                folder / "cross", [read_ragged(folder / "cross", n) for n in _list_features(schema, "cross")]
            ),
            {name: array(f"truth.{name}") for name in labels if (folder / f"truth.{name}.npy").exists()},
            Operands.load(query / "operands", OperandNames.of(schema, "query"), len(start) - 1),
            map_table(folder / "request.arrow"),
        )


def _rows(folder: Path, lists: list[Ragged]) -> Rows:
    return Rows(read_array(folder / "ids.npy"), read_array(folder / "numbers.npy"), tuple(lists))


def _list_features(schema: Schema, placement: Placement) -> range:
    return range(len(schema.row_features(placement).lists))


def _query_lists(folder: Path, schema: Schema, events: dict[str, Events]) -> list[Ragged]:
    histories, attributes, names = schema.histories(), schema.attributes(), schema.row_features("query").lists

    def lists(name: str) -> Ragged:
        values = events[histories[name].events].items if name in histories else None
        return read_ragged(folder, names.index(name), values)

    return [lists(attributes[name][0] if name in attributes else name) for name in names]


@dataclass(frozen=True)
class PackedDataset:
    """Packed data, memory-mapped. All is mapped when they are opened: they may be packed anew meanwhile.

    Example:
        packed = PackedDataset.open(Path("packed/example"))
        packed.splits["train"][0].request_start
    """

    folder: Path
    manifest: PackManifest
    schema: Schema
    encoders: Encoders
    items: Rows
    """A row for each item and time from which it holds."""
    events: dict[str, Events]
    """By `History.events`."""
    splits: dict[str, tuple[Shard, ...]]
    identity: tuple[int, int] | None = None
    """Tells this packing from later ones; None while it is written."""

    @classmethod
    def open(cls, folder: Path, expect: str | None = None) -> Self:
        """Open packed data; only manifest and encoders are read.

        Args:
            folder: of the packed data.
            expect: the fingerprint of the config and the files that it should be packed from.

        Raises:
            DataError: the data are missing, incomplete, damaged, or of another fingerprint.
        """
        while True:
            # a folder that is replaced meanwhile could give a part of each
            identity = identify_pack(folder)
            try:
                packed = cls._open(folder, expect, identity)
            except (DataError, OSError):
                if identify_pack(folder) == identity:
                    raise
            else:
                if identify_pack(folder) == identity:
                    return packed

    @classmethod
    def _open(cls, folder: Path, expect: str | None, identity: tuple[int, int] | None) -> Self:
        manifest = read_pack_manifest(folder)
        if expect is not None and manifest.fingerprint != expect:
            raise DataError(f"{folder}: packed from another config or other files: {PACK_AGAIN}")
        for name, size in manifest.files.items():
            path = folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                raise DataError(f"{path}: expected {size} bytes, found {found or 'no file'}: {PACK_AGAIN}")
        schema = Schema(manifest.features)
        loaded = cls.load(folder, manifest, Encoders.load(folder / "encoders", schema))
        packed = replace(loaded, identity=identity)
        for name in ("codes", "users", "item_keys", "item_operands", "item_columns", "priors"):
            getattr(packed, name)
        return packed

    @classmethod
    def load(cls, folder: Path, manifest: PackManifest, encoders: Encoders) -> Self:
        """Memory-map packed data whose manifest and encoders are at hand."""
        schema = encoders.schema
        events = {h.events: Events.open(folder / "events", h.events) for h in schema.histories().values()}
        items = folder / "items"
        return cls(
            folder,
            manifest,
            schema,
            encoders,
            _rows(items, [read_ragged(items, n) for n in _list_features(schema, "item")]),
            events,
            {
                split: tuple(Shard.open(folder / split / s.name, manifest, schema, events) for s in shards)
                for split, shards in manifest.splits.items()
            },
        )

    @property
    def data(self) -> DataSettings:
        """The settings of the tables."""
        return self.manifest.data

    @cached_property
    def codes(self) -> str:
        """A hash of the encoders: the weights of a model hold for these codes alone."""
        return hashlib.sha256(self._read_encoders()).hexdigest()

    def _read_encoders(self) -> bytes:
        files = sorted((self.folder / "encoders").iterdir())
        return b"".join(part for file in files for part in (file.name.encode(), file.read_bytes()))

    def read_encoders(self) -> bytes:
        """Read names and bytes of the encoders' files. Raises DataError if they are of a later packing."""
        found = self._read_encoders()
        if identify_pack(self.folder) != self.identity:
            raise DataError(f"{self.folder}: was packed anew since this command began: run it again")
        return found

    @cached_property
    def users(self) -> pl.Series:
        """The distinct users of the log, ascending: (U,)."""
        return read_frame(self.folder / "users.arrow")["user"]

    @cached_property
    def item_keys(self) -> pl.DataFrame:
        """Columns `item` and `valid_from` (ms UTC, NEVER for always) of the item rows."""
        return read_frame(self.folder / "items" / "keys.arrow")

    @cached_property
    def item_versions(self) -> VersionedRows:
        """The item rows, to be found by item and time."""
        return VersionedRows(self.item_keys.rename({"item": ID, "valid_from": FROM}))

    @cached_property
    def item_operands(self) -> Operands:
        """The operands of the item rows."""
        wanted = OperandNames.of(self.schema, "item")
        return Operands.load(self.folder / "items" / "operands", wanted, len(self.items))

    @cached_property
    def item_columns(self) -> dict[str, Floats]:
        """Those of the data's `columns` that are read from items, by item row."""
        names = self.manifest.item_columns
        return {name: read_array(self.folder / "items" / f"column.{name}.npy") for name in names}

    @cached_property
    def priors(self) -> PriorSnapshots:
        """The counts of every prior, period by period."""
        folders = {name: prior_folder(self.folder, n) for n, name in enumerate(self.schema.priors())}
        rates = {name: PriorCounts.load(folder) for name, folder in folders.items()}
        return PriorSnapshots(rates, self.data.timezone)

    def newest_items(self) -> tuple[pl.Series, Longs]:
        """Return the I distinct items, ascending, and the newest row of each: (I,), (I,)."""
        rows = newest_rows(self.item_versions.frame.with_row_index(ROW)).sort(ID)
        return rows[ID], rows[ROW].to_numpy().astype(np.int64)


def prior_folder(folder: Path, n: int) -> Path:
    """Return the folder of the n-th prior's counts, in packed data as in a bundle."""
    return folder / "priors" / str(n)

"""Packed data: request-major arrays of one log, memory-mapped."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError

from corank.arrays import read_array, read_frame, read_rows
from corank.encode import Encoders
from corank.errors import DataError
from corank.history import Events
from corank.rows import Floats, Ints, Longs, Rows
from corank.schema import Feature, IdsFeature, Schema
from corank.settings import Settings
from corank.tables import DataSettings, files

FORMAT = 1
MANIFEST = "manifest.json"
_AGAIN = "run `corank pack` again"


class ShardCount(Settings):
    name: str
    requests: int
    candidates: int


class Manifest(Settings):
    """What a folder of packed data holds; written last."""

    format: int
    fingerprint: str
    data: DataSettings
    features: dict[str, Feature]
    splits: dict[str, list[ShardCount]]
    levels: dict[str, int]
    """Candidates of each level."""
    dropped: dict[str, int]
    """Rows left out, and users without a row in `users`: by reason."""
    files: dict[str, int]
    """Bytes of every file, by its path within the folder."""


def fingerprint(data: DataSettings, schema: Schema, base: Path) -> str:
    """A hash of the settings and of each input file's size and time of change (of a URL its name alone).

    Raises DataError for a missing file.
    """
    features = {name: feature.model_dump(mode="json") for name, feature in schema.features.items()}
    inputs: dict[str, Any] = {}
    for source in (data.log, data.items, data.users, data.truth):
        for path in files(source, base) if source else ():
            stat = None if "://" in path else Path(path).stat()
            # relative, so that a project's folder may move
            inputs[os.path.relpath(path, base) if stat else path] = stat and [stat.st_size, stat.st_mtime_ns]
    said = json.dumps([FORMAT, data.model_dump(mode="json"), features, inputs], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def events_name(history: IdsFeature) -> str:
    """Histories of one event and one item id feature share their events."""
    return f"{history.of}.{history.event or 'exposed'}"


@dataclass(frozen=True)
class Shard:
    """Some R requests of a split, in the order of time, and their C candidates, in the order of the log."""

    folder: Path
    request_start: Longs
    """Where each request's candidates begin, and the end: (R + 1,)."""
    query: Rows
    """(R). A history's values are the events of all users."""
    user: Ints
    """Index into `Packed.users`: (R,)."""
    time: Longs
    """ms since 1970 UTC: (R,)."""
    item: Ints
    """Row of `Packed.items` as of the request's time: (C,)."""
    level: NDArray[np.uint8]
    """(C,)"""
    labels: dict[str, NDArray[np.int8]]
    """0, 1, or -1 where unknown, as everywhere but where exposed: (C,)."""
    scores: dict[str, Floats]
    """Logged scores as logits, NaN where there is none: (C,)."""
    weight: Floats | None
    """(C,), if the log has it."""
    cross: Rows
    """(C), of no columns if there are no cross features."""
    truth: dict[str, Floats]
    """The true probability of a label, for labels of the truth table: (C,)."""

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def keys(self) -> pl.DataFrame:
        """The request key's columns: (R,)."""
        return read_frame(self.folder / "request.arrow")

    def request_key(self, row: int) -> dict[str, Any]:
        """The request key's columns of one request."""
        return self.keys.row(row, named=True)

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, schema: Schema, events: dict[str, Events]) -> Self:
        def array(name: str) -> NDArray[Any]:
            return read_array(folder / f"{name}.npy")

        histories, labels = schema.histories(), manifest.data.labels
        lists = schema.placed("query").lists
        shared = [events[events_name(histories[name])].items if name in histories else None for name in lists]
        return cls(
            folder,
            array("request_start"),
            read_rows(folder / "query", shared),
            array("user"),
            array("time"),
            array("item"),
            array("level"),
            {name: array(f"label.{name}") for name in labels},
            {name: array(f"score.{name}") for name in manifest.data.scores},
            array("weight") if manifest.data.weight else None,
            read_rows(folder / "cross", [None] * len(schema.placed("cross").lists)),
            {name: array(f"truth.{name}") for name in labels if (folder / f"truth.{name}.npy").exists()},
        )


@dataclass(frozen=True)
class Packed:
    folder: Path
    manifest: Manifest
    schema: Schema
    encoders: Encoders
    items: Rows
    """A row per item and the time from which it holds."""
    events: dict[str, Events]
    """By `events_name` of a history."""
    splits: dict[str, tuple[Shard, ...]]

    @classmethod
    def open(cls, folder: Path, expect: str | None = None) -> Self:
        """Open packed data, nothing read but its manifest and encoders.

        Raises DataError if they are missing, incomplete or damaged, and, given a fingerprint to `expect`, of another
        config or other files.
        """
        manifest = _manifest(folder)
        if expect is not None and manifest.fingerprint != expect:
            raise DataError(f"{folder}: packed from another config or other files: {_AGAIN}")
        for name, size in manifest.files.items():
            path = folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                raise DataError(f"{path}: expected {size} bytes, found {found or 'no file'}: {_AGAIN}")
        schema = Schema(manifest.features)
        events = {n: Events.open(folder / "events", n) for n in map(events_name, schema.histories().values())}
        return cls(
            folder,
            manifest,
            schema,
            Encoders.load(folder / "encoders", schema),
            read_rows(folder / "items", [None] * len(schema.placed("item").lists)),
            events,
            {
                split: tuple(Shard.open(folder / split / s.name, manifest, schema, events) for s in shards)
                for split, shards in manifest.splits.items()
            },
        )

    @property
    def data(self) -> DataSettings:
        return self.manifest.data

    @cached_property
    def codes(self) -> str:
        """A hash of the encoders: what a model learnt of a code holds under these alone."""
        digest = hashlib.sha256()
        for file in sorted((self.folder / "encoders").iterdir()):
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    @cached_property
    def users(self) -> pl.Series:
        """The distinct users of the log, ascending: (U,)."""
        return read_frame(self.folder / "users.arrow")["user"]

    @cached_property
    def item_keys(self) -> pl.DataFrame:
        """Columns `item` and `valid_from` (ms since 1970 UTC, the least integer for always) of the item rows."""
        return read_frame(self.folder / "items" / "keys.arrow")

    def newest_items(self) -> tuple[pl.Series, Longs]:
        """The distinct items, ascending, and the newest row of each: (I,), (I,)."""
        ids = self.item_keys["item"]
        last = np.append((ids.head(-1) != ids.tail(-1)).to_numpy(), len(ids) > 0)
        newest = np.flatnonzero(last)
        return ids.gather(newest), newest


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{folder}: no packed data here; run `corank pack`") from None
    try:
        form = json.loads(content).get("format")
        if form != FORMAT:
            raise DataError(f"{path}: packed in format {form}, this version reads {FORMAT}: {_AGAIN}")
        return Manifest.model_validate_json(content)
    except (ValueError, AttributeError, ValidationError):
        raise DataError(f"{path}: damaged: {_AGAIN}") from None

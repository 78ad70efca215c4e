"""Candidates with their features as a run's encoders give them: a sample of its packed data, and of new rows.

Letters: N candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl

from corank.batches.sampling import SplitCounts
from corank.core.artifact import read_manifest
from corank.core.errors import CheckpointError
from corank.core.ragged import NONE, Ragged, Vectors
from corank.core.time import DAY, MILLISECOND
from corank.core.types import Index, Ints, Longs, Mask, Numbers
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import LoggedRequests
from corank.data.packing.packs import open_trained
from corank.data.packing.state import KnownRows
from corank.features.encoders import Encoders, split_rows
from corank.features.encoding import MISSING, UNKNOWN, Encoded, Vocabulary, take_encoded
from corank.features.feature_kind import Side
from corank.features.schema import Schema
from corank.training.checkpoints.manifest import CheckpointManifest
from corank.training.checks.log_profile import count_splits
from corank.training.checks.split_rows import SplitRows
from corank.training.drift.figure import CodeBins, NumberBins, chance_of_shares, stability_index
from corank.training.packed_data import packed_location
from corank.training.run import Run

HOUR, DAY_HOURS, HALF = 3_600_000, 24, 0.5


def effective_count(keys: Ints) -> int:
    """Count independent keys: (Σc)² / Σc² of how often each is there (Kish, 1965), 1 at least."""
    counts = np.bincount(keys).astype(np.float64) if len(keys) else np.ones(1)
    return max(1, int(counts.sum() ** 2 / np.square(counts).sum()))


@dataclass(frozen=True)
class EncodedRows:
    """N candidates of whole requests."""

    encoded: Mapping[str, Encoded]
    """By feature: (N)."""
    times: Longs
    """Of the request, ms UTC: (N,)."""
    requests: Ints
    """A number for each request: (N,)."""
    users: Ints
    """A number for each user: (N,)."""
    items: Ints
    """A number for each item: (N,)."""

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def hours(self) -> Ints:
        """The hour of the day, UTC: (N,)."""
        return (self.times // HOUR % DAY_HOURS).astype(np.int32)

    @cached_property
    def last_day(self) -> "EncodedRows":
        """The candidates of the last 24 hours."""
        return self._where(self.times > self.times.max(initial=0) - DAY_HOURS * HOUR)

    def shares_hours(self, other: "EncodedRows") -> bool:
        """Whether half of the candidates are of hours of the day of which others are, too."""
        return bool(np.isin(self.hours, np.unique(other.hours)).mean() >= HALF)

    def in_hours_of(self, other: "EncodedRows") -> "EncodedRows":
        """Keep the candidates of those hours of the day of which others are, too."""
        return self._where(np.isin(self.hours, np.unique(other.hours)))

    def _where(self, kept: Mask) -> "EncodedRows":
        if kept.all():
            return self
        at = np.flatnonzero(kept)
        encoded = {name: take_encoded(values, at) for name, values in self.encoded.items()}
        return EncodedRows(encoded, self.times[at], self.requests[at], self.users[at], self.items[at])

    @cached_property
    def _units(self) -> dict[str, int]:
        """How many requests there are, 1 at least, and as how many users and items of equal weight these vary."""
        ids = {"user": effective_count(self.users), "item": effective_count(self.items)}
        return ids | {"request": max(1, len(np.unique(self.requests)))}

    def units(self, side: Side, identifies: bool) -> int:
        """Count independent values of a feature: its users or items, or the requests if it distinguishes those."""
        return self._units["request" if identifies or side not in self._units else side]


@dataclass(frozen=True)
class FeatureComparison:
    """One feature of a run's rows and of new ones."""

    name: str
    encoders: Encoders
    before: EncodedRows
    now: EncodedRows
    identifies: bool
    """Whether it is the id of the user or of the item."""

    @cached_property
    def _null(self) -> float:
        """The encoding of a missing number."""
        if self.name in self.encoders.schema.derived():
            encoded: Encoded = self.encoders.encode_derived(self.name, np.array([np.nan]))
        else:
            encoded = self.encoders.encode(self.name, pl.Series([None], dtype=pl.Null))
        assert isinstance(encoded, np.ndarray)
        return float(encoded.reshape(-1)[0])

    @property
    def _storage(self) -> str:
        return self.encoders.schema.features[self.name].storage

    def units(self, rows: EncodedRows) -> int:
        """Count the independent values among rows."""
        return rows.units(self.encoders.schema.side(self.name), self.identifies)

    def chance(self, before: EncodedRows, was: float, rate: float) -> float:
        """How far a share of earlier rows and one of the new ones may be apart by chance."""
        return chance_of_shares(was, rate, self.units(before), self.units(self.now))

    def missing(self, rows: EncodedRows) -> float | None:
        """The share of candidates without a value; of a number, encoded as a missing one is."""
        if not len(rows):
            return None
        encoded = rows.encoded[self.name]
        if isinstance(encoded, Ragged):
            return float(np.mean(encoded.length == 0))
        if isinstance(encoded, Vectors):
            return float(np.mean(encoded.row == NONE))
        lacking = encoded == MISSING if self._storage == "id" else _first(encoded) == np.float32(self._null)
        return float(np.mean(lacking))

    @property
    def has_vocabulary(self) -> bool:
        """Whether a value may be unknown to it."""
        owner = self.encoders.schema.table_of(self.name)
        return isinstance(self.encoders.fitted.get(owner), Vocabulary) and self._storage in ("id", "list")

    def unknown(self, rows: EncodedRows) -> float | None:
        """The share of values that the vocabulary does not know; None if there is no value."""
        codes = _codes(rows.encoded[self.name])
        known = codes[codes != MISSING]
        return float((known == UNKNOWN).mean()) if len(known) else None

    def stability(self) -> float | None:
        """The PSI against the run's rows, or against those of its last day if they are nearer; None of vectors.

        A column that counts events grows from day to day: it is nearer to the last day than to all days before.
        """
        if any(isinstance(rows.encoded[self.name], Vectors) for rows in (self.before, self.now)):
            return None
        return min(self._stability(rows) for rows in (self.before, self.before.last_day))

    def _stability(self, rows: EncodedRows) -> float:
        """The PSI against some of the run's rows; chance is that of all, so that few rows are not near by chance."""
        before, now = rows.encoded[self.name], self.now.encoded[self.name]
        units = self.units(self.before), self.units(self.now)
        if self._storage == "number":
            bins = NumberBins.of(_first(before), float(np.float32(self._null)))
            return stability_index(bins.count(_first(before)), bins.count(_first(now)), *units)
        codes = _codes(before)
        frequent = CodeBins.of(codes)
        return stability_index(frequent.count(codes), frequent.count(_codes(now)), *units)

    def length_stability(self) -> float:
        """The PSI of the lengths of a history."""
        bins = NumberBins.of(_lengths(self.before.encoded[self.name]), 0.0)
        before, now = (bins.count(_lengths(rows.encoded[self.name])) for rows in (self.before, self.now))
        return stability_index(before, now, self.units(self.before), self.units(self.now))


def _lengths(encoded: Encoded) -> Numbers:
    assert isinstance(encoded, Ragged)
    return np.asarray(encoded.length, dtype=np.float32)


def _first(encoded: Encoded) -> Numbers:
    """The numbers of a feature; of several the first."""
    assert isinstance(encoded, np.ndarray)
    return np.asarray(encoded.reshape(len(encoded), -1)[:, 0], dtype=np.float32)


def _codes(encoded: Encoded) -> Ints:
    """The codes of a feature; an empty list counts as one that is missing."""
    if isinstance(encoded, Ragged):
        empty = np.full(np.count_nonzero(encoded.length == 0), MISSING, dtype=np.int32)
        return np.concatenate((encoded.flat().astype(np.int32), empty))
    assert isinstance(encoded, np.ndarray)
    return encoded.astype(np.int32, copy=False)


SAMPLE = 500_000
"""Candidates that are read of a split of the run, about, in whole requests."""
NEW_SAMPLE = 500_000
"""Candidates of a period that are read, about, in whole requests."""
WEEK = 7
"""Earlier periods that the number of new rows is compared with, at most."""


def open_packed_of(run: Run) -> PackedDataset:
    """Open the packed data that a run was trained on, whatever became of its tables.

    Raises CheckpointError if it has not finished, DataError if the data are gone.
    """
    if not run.finished:
        raise CheckpointError(f"{run.folder}: training has not finished; go on with `corank train --resume`")
    codes = read_manifest(run.latest, CheckpointManifest).facts.get("codes")
    return open_trained(packed_location(run.config, run.base), run.config.data, str(codes))


def encode_requests(
    packed: PackedDataset, parts: Sequence[LoggedRequests], names: Sequence[str]
) -> EncodedRows:
    """Take some features of requests of packed data."""
    whole, schema = parts[0].concat(*parts[1:]), packed.schema
    request = np.repeat(np.arange(len(whole)), np.diff(whole.request_start))
    every = np.arange(len(whole.item))
    columns: dict[str, tuple[dict[str, Encoded], Index]] = {
        "query": (split_rows(schema.row_features("query"), whole.query), request),
        "item": (split_rows(schema.row_features("item"), packed.items), whole.item),
        "snapshot": (split_rows(schema.row_features("snapshot"), whole.snapshot), every),
        "cross": (split_rows(schema.row_features("cross"), whole.cross), every),
    }
    encoded = {}
    for name in names:
        features, index = columns[schema.placement(name)]
        encoded[name] = take_encoded(features[name], index)
    items, times = packed.item_ordinals[whole.item], whole.time[request]
    return EncodedRows(encoded, times, request.astype(np.int32), whole.user[request], items)


def encode_period(
    packed: PackedDataset, begin: int, end: int, names: Sequence[str], known: Encoders
) -> EncodedRows:
    """Take some features of a sample of the requests of a period, by the codes of earlier encoders.

    Args:
        packed: continues the data of the earlier encoders.
        begin: of the period, ms UTC.
        end: of it.
        names: of the features.
        known: the earlier encoders; what their vocabularies lack is unknown.
    """
    shards = [shard for of_split in packed.splits.values() for shard in of_split]
    within = [np.flatnonzero((shard.time >= begin) & (shard.time < end)) for shard in shards]
    sizes = (np.diff(s.request_start)[rows].sum() for s, rows in zip(shards, within, strict=True))
    step = -(-int(sum(sizes)) // NEW_SAMPLE) or 1
    parts = [s.take(rows[n % step :: step]) for n, (s, rows) in enumerate(zip(shards, within, strict=True))]
    sample = encode_requests(packed, parts, names)
    encoded = {name: _recode(values, packed.encoders, known, name) for name, values in sample.encoded.items()}
    return replace(sample, encoded=encoded)


def _recode(encoded: Encoded, now: Encoders, known: Encoders, name: str) -> Encoded:
    """The codes of a feature by earlier encoders: (N)."""
    owner = now.schema.table_of(name)
    encoder, before = now.fitted.get(owner), known.fitted.get(owner)
    rows = encoder.find_rows(before) if isinstance(encoder, Vocabulary) and before is not None else None
    if rows is None:
        return encoded
    if isinstance(encoded, Ragged):
        return Ragged(encoded.start, encoded.length, rows[encoded.values])
    assert isinstance(encoded, np.ndarray)
    return rows[encoded]


@dataclass(frozen=True)
class ReferenceRows:
    """The training rows of a run, as they lie packed."""

    packed: PackedDataset

    def _sample(self, split: str) -> list[LoggedRequests]:
        """Some requests of each shard of a split, evenly spread."""
        shards = self.packed.manifest.splits[split]
        step = -(-sum(shard.candidates for shard in shards) // SAMPLE) or 1
        parts = enumerate(self.packed.splits[split])
        return [part.take(np.arange(n % step, len(part), step)) if step > 1 else part for n, part in parts]

    @cached_property
    def training(self) -> Sequence[LoggedRequests]:
        """A sample of the requests that trained."""
        return self._sample("train")

    def encoded(self, split: str, names: Sequence[str]) -> EncodedRows | None:
        """A sample of a split with some features; None if there is no such split."""
        if split not in self.packed.splits:
            return None
        return encode_requests(self.packed, self.training if split == "train" else self._sample(split), names)

    @property
    def counts(self) -> SplitCounts:
        """Of the sample."""
        return count_splits(SplitRows.of_packed(self.packed, {"train": self.training}))["train"]

    def rows_per_period(self, begin: int, end: int) -> tuple[float | None, bool]:
        """The usual number of candidates of a period: the median of the same hours of up to a week before.

        Where these are not known, as many as the run's rows have in that time, on average; None if they are of one
        moment.

        Args:
            begin: of the period, ms UTC.
            end: of it.

        Returns the number, and whether it is of the same hours of the day, or of half a day and more.
        """
        day = DAY // MILLISECOND
        step = -(-(end - begin) // day) * day
        shards = [shard for of_split in self.packed.splits.values() for shard in of_split if len(shard)]
        rows = [(shard.time, np.diff(shard.request_start)) for shard in shards]
        manifest = self.packed.manifest
        own = KnownRows.count(rows, manifest.data.split_bounds().values(), manifest.last)
        known = own.after(KnownRows.read(self.packed.folder))
        counts = (known.between(begin - n * step, end - n * step) for n in range(1, WEEK + 1))
        if whole := [count for count in counts if count is not None]:
            return float(np.median(whole)), True
        times = [int(bound) for time, _ in rows for bound in (time.min(), time.max())]
        first, last = min(times, default=0), max(times, default=0)
        total = sum(int(size.sum()) for _, size in rows)
        long = min(last - first, end - begin) >= day // 2
        return (total * (end - begin) / (last - first) if last > first else None), long


@dataclass(frozen=True)
class ComparedFeatures:
    """The features that two schemas have alike, by how their values of new rows are computed."""

    columns: Sequence[str]
    """Read from a column."""
    derived: Sequence[str]
    """Made of such features."""
    histories: Sequence[str]
    """Lists of events of the log, or of a table."""
    left_out: Mapping[str, str]
    """Other features that the model reads, now or in the run: why they are not compared."""

    @classmethod
    def of(cls, before: Schema, now: Schema) -> Self:
        """Sort the features of a run's schema and of the new one."""
        columns, derived, histories, left_out = list[str](), list[str](), list[str](), dict[str, str]()
        for name in dict.fromkeys((*before.features, *now.features)):
            if not any(_is_read(schema, name) for schema in (before, now)):
                continue
            if reason := _difference(before, now, name) or _unfit(before, name):
                left_out[name] = reason
            elif name in before.histories():
                histories.append(name)
            else:
                (columns if before.features[name].as_derived is None else derived).append(name)
        return cls(columns, derived, histories, left_out)


def _is_read(schema: Schema, name: str) -> bool:
    """Whether rows hold it encoded: as an input, a vector or a history."""
    return name in schema.features and name in schema.row_features(schema.placement(name))


def _difference(before: Schema, now: Schema, name: str) -> str | None:
    if name not in before.features:
        return "the run has no such feature"
    if name not in now.features:
        return "the config has no such feature"
    for part in (name, *sorted(before.needs(name))):
        if before.features[part] != now.features.get(part):
            of = "" if part == name else f", or those of '{part}',"
            return f"its settings{of} have changed"
    return None


def _unfit(schema: Schema, name: str) -> str | None:
    """Why the values of a feature that both schemas have alike cannot be compared."""
    histories, parallels = schema.histories(), schema.parallels()
    if name in histories:
        return "its events are lists of the log or of users" if histories[name].lists is not None else None
    if schema.features[name].as_derived is not None:
        for feature in schema.with_compared([schema.derived()[name]]):
            if feature.as_prior is not None:
                return "what it counts grows with time"
            if any(schema.history_of(operand) in {*histories, *parallels} for operand in feature.operands):
                return "it is made of a history's items"
    elif schema.features[name].attribute is not None:
        return "it is made of a history's items"
    elif name in parallels:
        return "it lists what events of a history have"
    return None

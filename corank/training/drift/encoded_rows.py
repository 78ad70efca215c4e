"""Candidates with their features as a run's encoders give them: a sample of its packed data, and of new rows.

Letters: N candidates.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl

from corank.core.artifact import read_manifest
from corank.core.ragged import NONE, Ragged, Vectors
from corank.core.time import DAY, FOREVER, MILLISECOND, NEVER
from corank.core.types import Ints, Longs, Mask, Numbers
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import LoggedRequests
from corank.data.packing.packs import open_trained
from corank.data.packing.state import KnownRows
from corank.features.encoders import Encoders, split_rows
from corank.features.encoding import MISSING, UNKNOWN, Encoded, Vocabulary, take_encoded
from corank.features.schema import Schema
from corank.training.checkpoints.manifest import CheckpointManifest
from corank.training.drift.figure import chance_of_shares, count_codes, count_numbers, stability_index
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

    def share_hours(self, other: "EncodedRows") -> tuple["EncodedRows", "EncodedRows"] | None:
        """The candidates of both in hours of the day that both have; None if less than half of these are."""
        own, others = (np.isin(a.hours, np.unique(b.hours)) for a, b in ((self, other), (other, self)))
        return (self._where(own), other._where(others)) if own.mean() >= HALF else None

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

    def profile(self, encoders: Encoders, name: str, own: Collection[str]) -> "FeatureProfile":
        """Profile a feature.

        Args:
            encoders: of the run.
            name: of the feature.
            own: the columns of the ids of users and items.
        """
        schema = encoders.schema
        side, identifies = schema.side(name), schema.column(name) in own
        units = self._units["request" if identifies or side not in self._units else side]
        return FeatureProfile(self.encoded[name], _encode_missing(encoders, name), units)


def _encode_missing(encoders: Encoders, name: str) -> float | None:
    """The encoding of a missing number; None of a feature that is no number."""
    schema = encoders.schema
    if schema.features[name].storage != "number":
        return None
    encoded: Encoded
    if name in schema.derived():
        encoded = encoders.encode_derived(name, np.array([np.nan]))
    else:
        encoded = encoders.encode(name, pl.Series([None], dtype=pl.Null))
    return float(_first(encoded)[0])


@dataclass(frozen=True)
class FeatureProfile:
    """A feature of N candidates."""

    values: Encoded
    """(N)."""
    null: float | None
    """The encoding of a missing number; None if it is no number."""
    units: int
    """Independent values: its users or items, or the requests if it distinguishes those."""

    @property
    def missing(self) -> float | None:
        """The share of candidates without a value; of a number, encoded as a missing one is."""
        if isinstance(self.values, Ragged):
            lacking = self.values.length == 0
        elif isinstance(self.values, Vectors):
            lacking = self.values.row == NONE
        else:
            lacking = self.values == MISSING if self.null is None else _first(self.values) == self.null
        return float(np.mean(lacking)) if len(lacking) else None

    @property
    def unknown(self) -> float | None:
        """The share of values that the vocabulary does not know; None if there is no value."""
        codes = _codes(self.values)
        known = codes[codes != MISSING]
        return float((known == UNKNOWN).mean()) if len(known) else None

    @property
    def lengths(self) -> Self:
        """The lengths of a history, as numbers."""
        assert isinstance(self.values, Ragged)
        return replace(self, values=np.asarray(self.values.length, dtype=np.float32), null=0.0)

    def stability(self, before: Self) -> float:
        """The PSI against an earlier profile."""
        if before.null is None:
            counts = count_codes(_codes(before.values), _codes(self.values))
        else:
            counts = count_numbers(_first(before.values), _first(self.values), before.null)
        return stability_index(*counts, before.units, self.units)

    def chance(self, before: Self, was: float, rate: float) -> float:
        """How far an earlier share and one of these values may be apart by chance."""
        return chance_of_shares(was, rate, before.units, self.units)


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
"""Candidates that are read of a split of the run, or of a period, about, in whole requests."""
WEEK = 7
"""Earlier periods that the number of new rows is compared with, at most."""


def open_packed_of(run: Run) -> PackedDataset:
    """Open the packed data that a run was trained on, whatever became of its tables.

    Raises CheckpointError if it has not finished, DataError if the data are gone.
    """
    run.require_finished()
    codes = read_manifest(run.latest, CheckpointManifest).facts.get("codes")
    return open_trained(packed_location(run.config, run.base), run.config.data, str(codes))


def sample_requests(
    shards: Sequence[LoggedRequests], begin: int = NEVER, end: int = FOREVER
) -> Sequence[LoggedRequests]:
    """Some requests of each shard, evenly spread, from one time, ms UTC, to another."""
    within = [np.flatnonzero((shard.time >= begin) & (shard.time < end)) for shard in shards]
    sizes = (np.diff(shard.request_start)[rows].sum() for shard, rows in zip(shards, within, strict=True))
    step = -(-int(sum(sizes)) // SAMPLE) or 1
    return [s.take(rows[n % step :: step]) for n, (s, rows) in enumerate(zip(shards, within, strict=True))]


def encode_requests(
    packed: PackedDataset, parts: Sequence[LoggedRequests], names: Sequence[str]
) -> EncodedRows:
    """Take some features of requests of packed data."""
    whole, schema, encoded = parts[0].concat(*parts[1:]), packed.schema, dict[str, Encoded]()
    placed = packed.placed_rows(whole)
    for placement, (rows, index) in placed.items():
        features = split_rows(schema.row_features(placement), rows)
        here = (name for name in names if schema.placement(name) == placement)
        encoded |= {name: take_encoded(features[name], index) for name in here}
    _, request = placed["query"]
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
    sample = encode_requests(packed, sample_requests(shards, begin, end), names)
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


def rows_per_period(packed: PackedDataset, begin: int, end: int) -> tuple[float | None, bool]:
    """The usual number of candidates of a period: the median of the same hours of up to a week before.

    Where these are not known, as many as the packed rows have in that time, on average; None if they are of one moment.

    Args:
        packed: the data of the run.
        begin: of the period, ms UTC.
        end: of it.

    Returns the number, and whether it is of the same hours of the day, or of half a day and more.
    """
    day = DAY // MILLISECOND
    step = -(-(end - begin) // day) * day
    shards = [shard for of_split in packed.splits.values() for shard in of_split if len(shard)]
    rows = [(shard.time, np.diff(shard.request_start)) for shard in shards]
    own = KnownRows.count(rows, packed.data.split_bounds().values(), packed.manifest.last)
    known = own.after(KnownRows.read(packed.folder))
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

    single: Sequence[str]
    """Read from a column; then those that are made of such."""
    histories: Sequence[str]
    """Lists of events of the log, or of a table."""
    left_out: Mapping[str, str]
    """Other features that the model reads, now or in the run: why they are not compared."""

    @classmethod
    def of(cls, before: Schema, now: Schema) -> Self:
        """Sort the features of a run's schema and of the new one."""
        reasons = {
            name: _difference(before, now, name) or _unfit(before, name)
            for name in dict.fromkeys((*before.features, *now.features))
            if _is_read(before, name) or _is_read(now, name)
        }
        alike, histories = [name for name, reason in reasons.items() if reason is None], before.histories()
        single = [name for name in alike if name not in histories]
        return cls(
            sorted(single, key=lambda name: before.features[name].as_derived is not None),
            [name for name in alike if name in histories],
            {name: reason for name, reason in reasons.items() if reason is not None},
        )


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

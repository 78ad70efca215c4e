"""Candidates with their features as a run's encoders give them: of its packed data, or of new rows.

Letters: N candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from corank.core.ragged import NONE, Ragged, Vectors
from corank.core.types import Index, Ints, Longs, Mask, Numbers
from corank.features.encoders import Encoders
from corank.features.encoding import MISSING, UNKNOWN, Encoded
from corank.features.feature_kind import Side
from corank.features.vocabulary import Vocabulary
from corank.training.validation.stability import CodeBins, NumberBins, stability_index

HOUR, DAY_HOURS, HALF = 3_600_000, 24, 0.5


def take_encoded(encoded: Encoded, index: Index) -> Encoded:
    """Select encoded rows by position."""
    return encoded.take(index) if isinstance(encoded, Ragged | Vectors) else encoded[index]


def effective_count(keys: Ints) -> int:
    """Count independent keys: (Σc)² / Σc² of how often each is there (Kish, 1965), 1 at least."""
    counts = np.bincount(keys).astype(np.float64) if len(keys) else np.ones(1)
    return max(1, int(counts.sum() ** 2 / np.square(counts).sum()))


def number_hours(times: Longs) -> Ints:
    """Number the hour of the day, UTC, of times, ms UTC: (N,)."""
    return (times // HOUR % DAY_HOURS).astype(np.int32)


@dataclass(frozen=True)
class EncodedRows:
    """N candidates of whole requests."""

    encoded: Mapping[str, Encoded]
    """By feature: (N)."""
    hours: Ints
    """The hour of the day: (N,)."""
    requests: Ints
    """A number for each request: (N,)."""
    users: Ints
    """A number for each user: (N,)."""
    items: Ints
    """A number for each item: (N,)."""

    def __len__(self) -> int:
        return len(self.users)

    def shares_hours(self, other: "EncodedRows") -> bool:
        """Whether half of the candidates are of hours of the day of which others are, too."""
        return bool(np.isin(self.hours, np.unique(other.hours)).mean() >= HALF)

    def in_hours_of(self, other: "EncodedRows") -> "EncodedRows":
        """Keep the candidates of those hours of the day of which others are, too."""
        kept = np.isin(self.hours, np.unique(other.hours))
        if kept.all():
            return self
        at = np.flatnonzero(kept)
        encoded = {name: take_encoded(values, at) for name, values in self.encoded.items()}
        return EncodedRows(encoded, self.hours[at], self.requests[at], self.users[at], self.items[at])

    @cached_property
    def request_count(self) -> int:
        """How many requests there are, 1 at least."""
        return max(1, len(np.unique(self.requests)))

    @cached_property
    def effective_users(self) -> int:
        """As many users of equal weight vary as much."""
        return effective_count(self.users)

    @cached_property
    def effective_items(self) -> int:
        """As many items of equal weight vary as much."""
        return effective_count(self.items)

    def units(self, side: Side, identifies: bool) -> int:
        """Count independent values of a feature: its users or items, or the requests if it distinguishes those."""
        if identifies or side not in ("user", "item"):
            return self.request_count
        return self.effective_users if side == "user" else self.effective_items


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
    def origin(self) -> str:
        """The source of its values, for people."""
        schema = self.encoders.schema
        made_of = schema.features[self.name].made_of
        return (
            f"column '{schema.column(self.name)}'" if made_of is None else f"what it is made of, {made_of},"
        )

    @property
    def _storage(self) -> str:
        return self.encoders.schema.features[self.name].storage

    def units(self, rows: EncodedRows) -> int:
        """Count the independent values among rows."""
        return rows.units(self.encoders.schema.side(self.name), self.identifies)

    def missing(self, rows: EncodedRows) -> float | None:
        """The share of candidates without a value; of a number, encoded as a missing one is."""
        mask = self._missing_mask(rows.encoded[self.name])
        return float(mask.mean()) if len(mask) else None

    def _missing_mask(self, encoded: Encoded) -> Mask:
        if isinstance(encoded, Ragged):
            return np.asarray(encoded.length == 0)
        if isinstance(encoded, Vectors):
            return np.asarray(encoded.row == NONE)
        if self._storage == "id":
            return np.asarray(encoded == MISSING)
        return np.asarray(_first(encoded) == np.float32(self._null))

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
        """The PSI; None of vectors."""
        before, now = self.before.encoded[self.name], self.now.encoded[self.name]
        if isinstance(before, Vectors) or isinstance(now, Vectors):
            return None
        units = self.units(self.before), self.units(self.now)
        if self._storage == "number":
            bins = NumberBins.of(_first(before), float(np.float32(self._null)))
            return stability_index(bins.count(_first(before)), bins.count(_first(now)), *units)
        codes = [_codes(encoded) for encoded in (before, now)]
        frequent = CodeBins.of(codes[0])
        return stability_index(frequent.count(codes[0]), frequent.count(codes[1]), *units)

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

"""Rows as they lie packed: a sample of what a run was trained on, and of the rows of a period, by the run's codes.

Letters: N candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from corank.core.errors import CheckpointError
from corank.core.ragged import Ragged
from corank.core.time import DAY, MILLISECOND
from corank.core.types import Index, Longs
from corank.data.dataset import PackedDataset
from corank.data.packed.logged_requests import LoggedRequests
from corank.data.packs import open_trained
from corank.data.state.known_rows import KnownRows
from corank.features.encoders import Encoders, split_rows
from corank.features.encoding import Encoded
from corank.features.vocabulary import Vocabulary
from corank.training.preparation.packed_data import packed_location
from corank.training.run import Run
from corank.training.validation.encoded_rows import EncodedRows, number_hours, take_encoded

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
    codes = run.latest.load().facts.get("codes")
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
    items, hours = packed.item_ordinals[whole.item], number_hours(whole.time)[request]
    return EncodedRows(encoded, hours, request.astype(np.int32), whole.user[request], items)


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
        parts = []
        for n in range(len(shards)):
            shard = self.packed.splits[split][n]
            parts.append(shard.take(np.arange(n % step, len(shard), step)) if step > 1 else shard)
        return parts

    @cached_property
    def training(self) -> Sequence[LoggedRequests]:
        """A sample of the requests that trained."""
        return self._sample("train")

    def encoded(self, split: str, names: Sequence[str]) -> EncodedRows | None:
        """A sample of a split with some features; None if there is no such split."""
        if split not in self.packed.splits:
            return None
        return encode_requests(self.packed, self.training if split == "train" else self._sample(split), names)

    def level_counts(self) -> Longs:
        """Count the candidates of the sample by level."""
        levels = len(self.packed.data.levels)
        counts = [np.bincount(part.level, minlength=levels) for part in self.training]
        total: Longs = np.sum(counts, axis=0).astype(np.int64)
        return total

    def label_rate(self, label: str) -> float | None:
        """The share of ones of a label among the candidates of the sample where it is known; None if it is nowhere."""
        ones, zeros = (
            sum(int(np.count_nonzero(part.labels[label] == value)) for part in self.training)
            for value in (1, 0)
        )
        return ones / (ones + zeros) if ones + zeros else None

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
        shifts = [(n + 1) * step for n in range(WEEK)]
        counts = [known.between(begin - shift, end - shift) for shift in shifts]
        if whole := [count for count in counts if count is not None]:
            return float(np.median(whole)), True
        first = min((int(time.min()) for time, _ in rows), default=0)
        last = max((int(time.max()) for time, _ in rows), default=0)
        total = sum(int(size.sum()) for _, size in rows)
        long = min(last - first, end - begin) >= day // 2
        return (total * (end - begin) / (last - first) if last > first else None), long

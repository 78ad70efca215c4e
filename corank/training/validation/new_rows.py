"""The rows of a config's log that a run has not been trained on, and a sample of them encoded as the run encodes.

Letters: N candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from corank.core.errors import name_rows
from corank.core.time import FOREVER, format_time
from corank.data.as_of import VersionedRows
from corank.data.column_sources import Source
from corank.data.dataset import PackedDataset
from corank.data.log_rows import describe_request, request_columns
from corank.data.packing.spread import hash_requests
from corank.data.tables import Table
from corank.features.encoders import Encoders
from corank.features.encoding import Encoded
from corank.features.row_columns import ID, ITEM, LEVEL, TIME, USER
from corank.training.config import Config
from corank.training.profile.split_rows import SPLIT, SplitRows
from corank.training.validation.compared_features import ComparedFeatures
from corank.training.validation.derived_rows import CandidateRows
from corank.training.validation.encoded_rows import EncodedRows, number_hours, take_encoded
from corank.training.validation.histories import NewHistories
from corank.training.validation.reference import SAMPLE

BATCH = 262_144
"""Rows that are read at once."""


@dataclass(frozen=True)
class KnownLabels:
    """The exposed candidates of a label that are old enough for it, and whose condition happened."""

    positives: int
    negatives: int
    null: int

    @property
    def rate(self) -> float | None:
        """The share of ones; None if nothing is known."""
        known = self.positives + self.negatives
        return self.positives / known if known else None


@dataclass(frozen=True)
class NewRows:
    """The new training rows of a config: counted, and read in part."""

    config: Config
    tables: Mapping[str, Table]
    sources: Mapping[str, Source]
    rows: SplitRows
    begin: int
    """When they begin, ms UTC."""
    end: int
    """When the config's training ends, or after the last row if it has no end."""
    levels: Sequence[int]
    """Candidates of each level."""
    labels: Mapping[str, KnownLabels]

    @classmethod
    def read(
        cls, config: Config, tables: Mapping[str, Table], sources: dict[str, Source], begin: int
    ) -> "NewRows":
        """Count the rows that train from a moment on. Raises DataError.

        Args:
            config: the config.
            tables: its tables.
            sources: of the features of columns that are compared, and of operands.
            begin: that moment, ms UTC.
        """
        data = config.data
        log = tables["log"].keep(lambda frame: frame.filter(tables["log"].since(data.time, begin)))
        last = log.collect(log.frame.select(log.moment(data.time).max())).item()
        rows = SplitRows.of(log, data, config.declared, sources, begin if last is None else int(last))
        rows = replace(rows, frame=rows.frame.filter(pl.col(SPLIT) == "train", pl.col(TIME) >= begin))
        kinds = ("positives", "negatives", "null")
        sums = [rows.counts_as(n, k).sum().alias(f"{n} {k}") for n in data.labels for k in kinds]
        found = rows.collect(
            rows.frame.group_by(LEVEL).agg(pl.len(), pl.col(TIME).max().alias("last"), *sums)
        )
        sizes = dict(found.select(LEVEL, "len").rows())
        until = data.training_end()
        return cls(
            config,
            tables,
            sources,
            rows,
            begin,
            max([begin, *found["last"].to_list()]) + 1 if until == FOREVER else until,
            [sizes.get(level, 0) for level in range(len(data.levels))],
            {n: KnownLabels(*(int(found[f"{n} {k}"].sum()) for k in kinds)) for n in data.labels},
        )

    def __len__(self) -> int:
        return sum(self.levels)

    @property
    def span(self) -> str:
        """The period, for people."""
        return f"{format_time(self.begin)} to {format_time(self.end)}"

    def encode(
        self, packed: PackedDataset, compared: ComparedFeatures, events: Mapping[str, Table]
    ) -> EncodedRows:
        """Encode the features of a sample of whole requests as packed data are. Raises DataError for unfit values.

        Args:
            packed: has the encoders, and the earlier events of users.
            compared: names the features.
            events: the tables of `data.events`.
        """
        encoders, request = packed.encoders, list(request_columns(self.config.data).values())
        sample = self._sample(request)
        needed = compared.column_features(encoders.schema)
        looked = {s: self._rows_of(sample, s, needed, encoders) for s in ("items", "users")}

        def column(name: str) -> pl.Series:
            column, source = encoders.schema.column(name), self.sources[name]
            if source == "log":
                return sample[column]
            frame, index = looked[source]
            return frame[column] if source == "items" else frame[column].gather(index)

        encoded: dict[str, Encoded] = {}
        for name in compared.columns:
            source = self.sources[name]
            if source == "log":
                with name_rows(lambda row: describe_request(sample, row, self.config.data)):
                    encoded[name] = encoders.encode(name, column(name))
            else:
                frame, index = looked[source]
                key = self.config.data.item if source == "items" else self.config.data.user
                with name_rows(lambda row, key=key, ids=frame[ID]: f"{key}={ids[row]!r}"):  # type: ignore[misc]
                    values = encoders.encode(name, frame[encoders.schema.column(name)])
                encoded[name] = take_encoded(values, index)
        times, (items, item) = sample[TIME].to_numpy(), looked["items"]
        keys = (pl.struct(request), pl.col(USER), pl.col(ITEM))
        numbers = [sample.select(key.rank("dense")).to_series().to_numpy().astype(np.int32) for key in keys]
        rows = CandidateRows(encoders, packed.priors, column, item, len(items), times, numbers[0])
        encoded |= rows.encode(compared.derived)
        histories = NewHistories(packed, self.rows, events, self.begin)
        encoded |= histories.cut(compared.histories, sample[USER], times)
        return EncodedRows(encoded, number_hours(sample[TIME].to_numpy()), *numbers)

    def _sample(self, request: Sequence[str]) -> pl.DataFrame:
        """The rows of so many requests, chosen by a hash of their keys, that they are about SAMPLE."""
        parts = -(-len(self) // SAMPLE) or 1
        if parts == 1:
            return self.rows.collect(self.rows.frame)
        batches = self.rows.log.collect_batches(self.rows.frame, BATCH)
        return pl.concat(rows.filter(pl.Series(hash_requests(rows, request, parts) == 0)) for rows in batches)

    def _rows_of(
        self, sample: pl.DataFrame, source: str, names: Sequence[str], encoders: Encoders
    ) -> tuple[pl.DataFrame, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """The rows of items or users of a sample, with the columns of features, and which each candidate has: (N,)."""
        data, schema = self.config.data, encoders.schema
        key, id_column = (ITEM, data.item) if source == "items" else (USER, data.user)
        columns = dict.fromkeys(schema.column(n) for n in names if self.sources[n] == source)
        read = [column for column in columns if column != id_column]
        wanted = sample[key].unique().sort()
        if source in self.tables and read:
            held, _ = VersionedRows.read(self.tables[source], id_column, read, wanted, only=True)
        else:
            held = VersionedRows.from_ids(wanted)
        index = held.find(sample[key], sample[TIME].to_numpy())
        return held.frame.with_columns(pl.col(ID).alias(id_column)), index

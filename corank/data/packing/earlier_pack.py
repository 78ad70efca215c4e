"""An earlier packing, which another continues: from when on tables are read, and how vocabularies grow."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from corank.core.hash_index import Keys
from corank.core.reports import Report
from corank.core.time import MILLISECOND, NEVER, floor_times
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import ContinuedFrom, GrownRows, PackManifest
from corank.data.packing.state import read_counts_of_values
from corank.data.tables import Table
from corank.engine.base import SentByFields
from corank.features.encoders import Encoders
from corank.features.encoding import Encoder, Vocabulary
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from corank.features.split import LaterSplit
from corank.features.training_values import GROWTH, EarlierTally, max_rows_of


@dataclass(frozen=True)
class EarlierPack(SentByFields):
    """Packed data that a packing continues: their state is reused, their rows are not read again."""

    folder: Path
    """Of the packed data, or of a copy of all but the shards."""
    location: str
    """Their folder or URL, for messages."""
    manifest: PackManifest
    through: int
    """Rows before it, ms UTC, were trained on or are history; rows from it on are new."""
    fixed: bool = False
    """Whether vocabularies are frozen."""

    @classmethod
    def of(cls, packed: PackedDataset, fixed: bool = False) -> Self:
        """Describe packed data."""
        location = packed.location.absolute() if isinstance(packed.location, Path) else packed.location
        return cls(packed.folder, str(location), packed.manifest, packed.manifest.through, fixed)

    @property
    def origin(self) -> ContinuedFrom:
        """The record of these in the manifest of the new packed data."""
        mark = self.manifest.fingerprint
        return ContinuedFrom(location=self.location, fingerprint=mark, through=self.through, fixed=self.fixed)

    @cached_property
    def schema(self) -> Schema:
        """The features."""
        return Schema(self.manifest.features)

    @cached_property
    def encoders(self) -> Encoders:
        """The encoders."""
        return Encoders.load(self.folder / "encoders", self.schema)

    def find_carried(self, schema: Schema) -> frozenset[str]:
        """Name the features of a config that are those of the earlier packing: their encoders are reused.

        They have the same name, settings (but those of growth, and those that networks alone read) and column, and are
        made of such features. Of an operand whose values themselves are taken, column and kind are enough.
        """
        carried: dict[str, bool] = {}

        def is_carried(name: str) -> bool:
            if name not in carried:
                before, now = self.schema.features.get(name), schema.features[name]
                carried[name] = (
                    before is not None
                    and _settings(self.schema, name) == _settings(schema, name)
                    and all(
                        is_carried(part) or has_same_values(part, name) for part in sorted(schema.needs(name))
                    )
                    and type(before) is type(now)
                )
            return carried[name]

        def has_same_values(part: str, name: str) -> bool:
            before, now = self.schema.features.get(part), schema.features[part]
            same = type(before) is type(now) and self.schema.column(part) == schema.column(part)
            return same and "id" in now.uses and schema.features[name].as_derived is not None

        return frozenset(name for name in schema.features if is_carried(name))

    def frozen(self, schema: Schema) -> Mapping[str, Encoder]:
        """The encoders that are reused unchanged: scales, buckets, hashes."""
        carried, fitted = self.find_carried(schema), self.encoders.fitted
        return {
            name: fitted[name]
            for name in schema.features
            if name in carried and name in fitted and self.tally(name) is None
        }

    def tally(self, name: str) -> EarlierTally | None:
        """The counts of the values of a feature; None if it has no vocabulary."""
        counts = read_counts_of_values(self.folder, self.schema, name)
        encoder = self.encoders.fitted.get(name)
        if counts is None or not isinstance(encoder, Vocabulary):
            return None
        return EarlierTally(counts, encoder.values, self.through, self.fixed)


def _settings(schema: Schema, name: str) -> dict[str, Any]:
    feature = schema.features[name]
    left_out = {*feature.unpacked_settings, *GROWTH}
    return feature.model_dump(mode="json", exclude=left_out) | {"column": schema.column(name)}


@dataclass(frozen=True)
class PackStart:
    """The times from which a packing reads its tables. They are in ms UTC; NEVER for all rows."""

    earlier: EarlierPack | None = None
    since: int = NEVER
    """Rows before are in no split."""
    carried: frozenset[str] = frozenset()
    """Features that are those of the earlier packing."""
    periods: Mapping[str, int] = field(default_factory=dict)
    """By prior whose counts continue: rows are counted from this period on."""
    events: Mapping[str, int] = field(default_factory=dict)
    """By name of events of the log, or of a table, that continue: those from this time on are read."""
    log_from: int = NEVER
    """Rows of the log before are not read."""
    tables_from: Mapping[str, int] = field(default_factory=dict)
    """By table of `data.events`, rows before are not read."""
    files: Mapping[str, list[str]] = field(default_factory=dict)
    """By table, `log` or `events.NAME`, the files that are read; all by default."""

    @classmethod
    def after(cls, earlier: EarlierPack, data: DataSettings, schema: Schema) -> Self:
        """Start where an earlier packing ended.

        Rows before its end are read as history alone, as far back as priors whose last period was not over, and labels
        that were not mature, need them.
        """
        carried, since = earlier.find_carried(schema), earlier.through
        periods = {
            name: int(floor_times(np.array([since]), prior.every, data.timezone)[0])
            for name, prior in schema.priors().items()
            if name in carried
        }
        # a prior's row of a period has been known since the period's begin, or later
        of_priors: dict[str | None, list[int]] = {}
        for name, period in periods.items():
            prior = schema.priors()[name]
            begin = period - prior.known_after(data) // MILLISECOND
            of_priors.setdefault(prior.events, []).append(begin)
        events = {
            name: since - matures // MILLISECOND
            for name, matures in _events(schema, data)
            if name in {history.events for history in earlier.schema.histories().values()}
        }
        logged = {h.events for h in schema.histories().values() if h.table is None and h.lists is None}
        # a history that is new reads its whole table
        unread = {h.table for h in schema.histories().values() if h.table and h.events not in events}
        return cls(
            earlier,
            since,
            carried,
            periods,
            events,
            min([since, *of_priors.get(None, []), *(t for n, t in events.items() if n in logged)]),
            {n: min([since, *of_priors.get(n, [])]) for n in data.events if n not in unread},
        )

    def split(self, data: DataSettings) -> DataSettings:
        """Return the settings with splits that have no rows of the earlier packing."""
        if self.earlier is None:
            return data
        return data.model_copy(update={"split": LaterSplit(rule=data.split, since=self.since)})

    def list_events(self, data: DataSettings) -> DataSettings:
        """Return the settings with the files of events that are read."""
        named = {
            name: events.model_copy(update={"table": self.files.get(f"events.{name}", events.table)})
            for name, events in data.events.items()
        }
        return data.model_copy(update={"events": named})

    def keep_log(self, log: Table, data: DataSettings) -> Table:
        """Leave out the rows of the log that are not read."""
        return _keep_since(log, data.time, self.log_from)

    def keep_events(self, name: str, table: Table, column: str) -> Table:
        """Leave out the rows of a table of events that are not read; `column` has the times."""
        return _keep_since(table, column, self.tables_from.get(name, NEVER))


FROM_BEGIN = PackStart()
"""Reads all rows."""


def _keep_since(table: Table, column: str, since: int) -> Table:
    return table if since == NEVER else table.filter(table.since(column, since))


def _events(schema: Schema, data: DataSettings) -> Iterable[tuple[str, timedelta]]:
    """List the events of histories that no column lists: their name, and the delay of their label."""
    for history in schema.histories().values():
        if history.lists is None:
            yield history.events, data.matures(history.event) if history.event else timedelta()


def report_grown(report: Report, earlier: EarlierPack, encoders: Encoders) -> Mapping[str, GrownRows]:
    """Report how vocabularies grew and shrank, and which features are new.

    Returns how many values were admitted and evicted, by feature whose vocabulary continued.
    """
    counts = {}
    carried = earlier.find_carried(encoders.schema)
    for name, encoder in encoders.fitted.items():
        before = earlier.encoders.fitted.get(name)
        if name not in carried or not isinstance(encoder, Vocabulary) or not isinstance(before, Vocabulary):
            continue
        kept = 0
        if len(before.values) and len(encoder.values):
            kept = int((Keys(before.values.sort()).find(encoder.values) >= 0).sum())
        most = max_rows_of(encoders.schema.features[name])
        admitted, evicted = len(encoder.values) - kept, len(before.values) - kept
        free = None if most is None else most - len(encoder.values)
        counts[name] = GrownRows(admitted=admitted, evicted=evicted, free=free)
        room = "" if free is None else f", {free:,} free"
        report(f"{name}: {admitted:,} rows admitted, {evicted:,} evicted{room}")
    learnt = encoders.fitted.keys() | encoders.schema.priors().keys()
    fresh = [name for name in encoders.schema.features if name in learnt - carried]
    if fresh:
        report(f"begin anew, as {earlier.location} has no such features: {', '.join(fresh)}")
    return counts

"""Features of a config that read an outcome of its log: known only after the request, they make all figures false.

Columns of items and users are not judged, and what corank counts itself is made of earlier rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from corank.data.outcomes import where_label, where_request, why_outcome
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.features.log_schema import ITEM, TIME, value_column
from corank.training.checks.split_rows import EXPOSED, SPLIT, SplitRows
from corank.training.config.config import Config

SAMPLE = 200_000
"""Exposed rows of the training split that are looked at, of whole requests: about so many, drawn by a hash."""


@dataclass(frozen=True)
class OutcomeColumns:
    """A config with the rows of its log, to find the columns that tell what happened."""

    config: Config
    log: Table
    rows: SplitRows
    sources: Mapping[str, Source]

    def find(self) -> dict[str, tuple[str, str]]:
        """Find each column that looks like an outcome: what reads it, and why.

        Raises DataError if `known_before` names a column that the log does not have.
        """
        self.log.require(self.config.known_before)
        reasons = {column: (reader, self._why(column)) for column, reader in self._columns.items()}
        return {column: (reader, why) for column, (reader, why) in reasons.items() if why}

    @cached_property
    def _columns(self) -> dict[str, str]:
        """Columns of the log that are judged → what reads each; keys are known of any request."""
        schema, data = self.config.declared, self.config.data
        known = {*self.config.known_before, *data.request, data.user, data.item, data.time}
        read = {
            column: f"features.{name}"
            for name, source in self.sources.items()
            if source == "log"
            for column in schema.columns_of(name)
        }
        read |= {column: "data.columns" for column in data.columns if column in self.log.types}
        return {column: reader for column, reader in read.items() if column not in known}

    @cached_property
    def _request_columns(self) -> set[str]:
        """Those of the judged columns that have one value a request."""
        schema = self.config.declared
        names = (n for n, s in self.sources.items() if s == "log" and schema.placement(n) == "query")
        return {*schema.column_names(names)} & self._columns.keys()

    @cached_property
    def _sample(self) -> pl.DataFrame:
        """Exposed rows of the training split, of whole requests, with the labels' columns as in `LabelCounts`."""
        rows, data = self.rows, self.config.data
        training = rows.frame.filter((pl.col(SPLIT) == "train") & pl.col(EXPOSED))
        count = int(rows.collect(training.select(pl.len())).item())
        if (step := -(-count // SAMPLE)) > 1:
            training = training.filter(pl.struct(*rows.request).hash(0) % step == 0)
        states = [
            pl.when(rows.counts_as(label, "positives")).then(True)
            .when(rows.counts_as(label, "negatives")).then(False)
            .alias(_happened(label))
            for label in data.labels
        ]  # fmt: skip
        columns = [self._name(column) for column in self._columns]
        keys = [ITEM, TIME, *rows.request]
        return rows.collect(training.select(*keys, *states, *columns))

    def _name(self, column: str) -> str:
        """A column's name among the rows."""
        return value_column(column) if self._columns[column] == "data.columns" else column

    @cached_property
    def _requests(self) -> pl.DataFrame:
        """A row a request of the sample: its columns, and how many candidates have each label; null if unknown."""
        labels = [pl.col(_happened(label)) for label in self.config.data.labels]
        counts = [
            pl.when(label.is_not_null().any()).then(label.sum()).alias(label.meta.output_name())
            for label in labels
        ]
        return self._sample.group_by(self.rows.request, maintain_order=True).agg(
            pl.col(TIME, *self._request_columns).first(), *counts
        )

    def _why(self, column: str) -> str:
        """Say why a column looks like an outcome of some label; blank if it does not."""
        labels, of_request = self.config.data.labels, column in self._request_columns
        if label := next((label for label, one in labels.items() if one.column == column), None):
            return f"it is that of the label '{label}'"
        rows, name = (self._requests, column) if of_request else (self._sample, self._name(column))
        for label in labels:
            known = rows.filter(pl.col(_happened(label)).is_not_null())
            count, moment = known[_happened(label)].cast(pl.Int64), known[TIME].to_numpy()
            for least, where in (where_request(label) if of_request else {1: where_label(label)}).items():
                if why := why_outcome(column, known[name], (count >= least).to_numpy(), where, moment):
                    return why
            if of_request and (why := self._lists_it(column, label)):
                return why
        return ""

    def _lists_it(self, column: str, label: str) -> str:
        """Say whether lists of the request hold the candidates that have a label."""
        rows, kind = self._sample, self._sample.schema[column]
        if not (isinstance(kind, pl.List) and (kind.inner.is_integer() or kind.inner == pl.String)):
            return ""
        rows = rows.filter(pl.col(_happened(label)).is_not_null())
        items, lists = pl.col(ITEM).cast(pl.String), pl.col(column).cast(pl.List(pl.String))
        listed = rows.select(items.is_in(lists).fill_null(False)).to_series()
        why = why_outcome("", listed, rows[_happened(label)].to_numpy(), where_label(label))
        return f"its lists hold a candidate where {where_label(label)}, and hardly any other" if why else ""


def _happened(label: str) -> str:
    return f"@happened {label}"

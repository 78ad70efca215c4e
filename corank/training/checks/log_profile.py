"""The profile of a log under a config, from its tables alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corank.core.reports import Report
from corank.data.column_sources import find_sources
from corank.data.event_tables import open_events
from corank.data.log_rows import scan_log
from corank.data.log_summary import LogSummary
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.data.vector_files import with_vector_files
from corank.training.checks.findings import Finding
from corank.training.checks.guidance import describe_recipe
from corank.training.checks.log_counts import FeatureFacts, LogCounts, SplitRows, count_log, measure_features
from corank.training.checks.log_facts import LogFacts
from corank.training.checks.outcome_columns import OutcomeColumns
from corank.training.checks.returns import Returns
from corank.training.config.config import Config

BINS = (0, 1, 2, 3, 6, 11, 21, 51, 101, 201, 501, 1001)
"""Where the ranges begin by which candidates and positives of a request are shown."""


def open_tables(config: Config, base: Path) -> dict[str, Table]:
    """Open the tables that a config has, by name. Raises DataError."""
    data = config.data
    named = {"items": data.items, "users": data.users, "truth": data.truth}
    others = {name: Table.scan(name, source, base) for name, source in named.items() if source is not None}
    for name, key in (("items", data.item), ("users", data.user)):
        if name in others:
            others[name] = with_vector_files(others[name], key, config.declared, base)
    return {"log": scan_log(data, base)} | others


@dataclass(frozen=True)
class LogProfile:
    """The properties of a log that decide what can be learnt."""

    config: Config
    facts: LogFacts
    recipe: str
    """Which losses fit the log and why, and whether the config has them."""
    outcomes: Sequence[Finding]
    """What is read that looks known only after the request; training is refused for each."""

    @classmethod
    def of(
        cls, config: Config, tables: Mapping[str, Table], sources: dict[str, Source], summary: LogSummary
    ) -> "LogProfile":
        """Compute the profile of a log that `LogSummary.read` accepts."""
        data, schema = config.data, config.declared
        rows = SplitRows.of(tables["log"], data, schema, sources, summary.last)
        label = config.stages[-1].main
        counts, features = count_log(rows), measure_features(rows, schema, sources, tables, label)
        returns = Returns.of(rows, schema, sources, label)
        facts = LogFacts(config, tables, counts, features, returns)
        outcomes = OutcomeColumns(config, rows, sources).faults()
        return cls(config, facts, describe_recipe(facts), outcomes)

    @property
    def counts(self) -> LogCounts:
        """Of its splits."""
        return self.facts.counts

    @property
    def features(self) -> Sequence[FeatureFacts]:
        """The ids of items and users, then the features that are read from a column."""
        return self.facts.features

    @property
    def unread(self) -> dict[str, int]:
        """By split, the candidates that no loss reads: none takes their level."""
        read = self.config.total.population()
        logged = {level: most for level, most in read.items() if level < len(self.config.data.levels)}
        return {name: sum(counts.levels) - counts.rows(logged) for name, counts in self.counts.splits.items()}

    @property
    def request_rows(self) -> list[dict[str, str | int]]:
        """For each range of a number: how many requests of each split have so many candidates, and positives."""
        rows: list[dict[str, str | int]] = []
        labels = [stage.main for stage in self.config.stages]
        for what in ("candidates", *dict.fromkeys(labels)):
            histograms = {
                split: requests.candidates if what == "candidates" else requests.positives[what]
                for split, requests in self.counts.requests.items()
            }
            for begin, end in zip(BINS, [*BINS[1:], None], strict=True):
                counts = {split: _between(histogram, begin, end) for split, histogram in histograms.items()}
                if any(counts.values()):
                    rows.append({"number": _range(begin, end), "of": what} | counts)
        return rows

    @property
    def feature_rows(self) -> list[dict[str, str]]:
        """Of each feature: its table, its values, what is missing, and what training knows of each other split."""
        splits = self.config.data.split_names
        rows = []
        for facts in self.features:
            row = {"feature": facts.name, "table": facts.source}
            row["values"] = "" if facts.values is None else f"{facts.values:,}"
            row |= {f"missing {s} %": _percent(facts.missing.get(s)) for s in splits}
            for split in splits[1:]:
                known = facts.familiar.get(split)
                row[f"known {split} %"] = _percent(known.candidates if known else None)
                row[f"{split} positives %"] = _percent(known.positives if known else None)
            rows.append(row)
        return rows

    def report(self, say: Report) -> None:
        """Report briefly what training knows of the other splits, a line each."""
        item, user = self.facts.column("item"), self.facts.column("user")
        for split in self.config.data.split_names[1:]:
            known = [
                f"{_percent(facts.familiar[split].candidates)} % by their {facts.name}"
                for facts in (item, user)
                if split in facts.familiar
            ]
            say(f"{split}: candidates that training knows: {', '.join(known)}")

    def document(self) -> dict[str, Any]:
        """The profile as plain values."""
        return {
            "requests": {
                split: {
                    "candidates": {str(n): count for n, count in requests.candidates.items()},
                    "positives": {
                        label: {str(n): count for n, count in histogram.items()}
                        for label, histogram in requests.positives.items()
                    },
                    "ordered": dict(requests.ordered),
                }
                for split, requests in self.counts.requests.items()
            },
            "unread": self.unread,
            "features": [
                {
                    "feature": facts.name,
                    "table": facts.source,
                    "values": facts.values,
                    "rows": facts.rows,
                    "missing": dict(facts.missing),
                    "known": {
                        split: {"candidates": known.candidates, "positives": known.positives}
                        for split, known in facts.familiar.items()
                    },
                }
                for facts in self.features
            ],
            "recipe": self.recipe,
        }


def profile_log(config: Config, base: Path) -> LogProfile:
    """Compute the profile of a config's log from its tables, which packing has accepted. Raises DataError."""
    return LogProfile.of(config, *_open_log(config, base))


def find_outcomes(config: Config, base: Path) -> list[Finding]:
    """Find what a config reads of its log, which packing has accepted, that looks known only after the request.

    Raises DataError.
    """
    tables, sources, summary = _open_log(config, base)
    rows = SplitRows.of(tables["log"], config.data, config.declared, sources, summary.last)
    return OutcomeColumns(config, rows, sources).faults()


def _open_log(config: Config, base: Path) -> tuple[dict[str, Table], dict[str, Source], LogSummary]:
    """Open the tables of a config, and find where its columns are and when the log ends. Raises DataError."""
    data, schema, tables = config.data, config.declared, open_tables(config, base)
    sources = find_sources(
        schema, data, tables["log"], tables.get("items"), tables.get("users"), open_events(data, base)
    )
    last = tables["log"].frame.select(tables["log"].moment(data.time).max())
    return tables, sources, LogSummary(0, 0, int(tables["log"].collect(last).item()), {})


def _between(histogram: Mapping[int, int], begin: int, end: int | None) -> int:
    return sum(count for n, count in histogram.items() if begin <= n and (end is None or n < end))


def _range(begin: int, end: int | None) -> str:
    if end is None:
        return f"{begin} or more"
    return f"{begin}" if end == begin + 1 else f"{begin}-{end - 1}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"

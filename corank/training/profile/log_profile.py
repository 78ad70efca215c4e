"""The profile of a log under a config, computed from its tables before anything is packed or trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corank.core.types import Report
from corank.data.column_sources import Source, find_sources
from corank.data.content.vector_files import with_vector_files
from corank.data.histories.event_tables import open_events
from corank.data.lists.list_log import scan_log
from corank.data.log_summary import LogSummary
from corank.data.tables import Table
from corank.training.config import Config
from corank.training.profile.advice import Advice
from corank.training.profile.feature_facts import FeatureFacts, measure_features
from corank.training.profile.guidance import Guidance, Suggestion
from corank.training.profile.log_counts import LogCounts, count_log
from corank.training.profile.split_rows import SplitRows

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
    counts: LogCounts
    features: Sequence[FeatureFacts]
    """The ids of items and users, then the features that are read from a column."""
    suggestions: Sequence[Suggestion]
    """Additions to the config."""
    recipe: str
    """Which losses fit the log and why, and whether the config has them."""

    @classmethod
    def of(
        cls, config: Config, tables: Mapping[str, Table], sources: dict[str, Source], summary: LogSummary
    ) -> "LogProfile":
        """Compute the profile of a log that `LogSummary.read` accepts."""
        data, schema = config.data, config.declared
        rows = SplitRows.of(tables["log"], data, schema, sources, summary.last)
        label = config.stages[-1].main
        counts, features = count_log(rows), measure_features(rows, schema, sources, tables, label)
        guidance = Guidance(config, tables, counts, features)
        return cls(config, counts, features, guidance.suggestions, guidance.recipe)

    @property
    def advice(self) -> list[str]:
        """What makes learning hard and what to try, a line each; then additions, with lines of YAML."""
        return [*self._findings, *map(str, self.suggestions)]

    @property
    def _findings(self) -> list[str]:
        return Advice(self.config, self.counts, self.features).lines

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
        """Report briefly what training knows of the other splits, and what makes learning hard, a line each."""
        item, user = (next(f for f in self.features if f.name == name) for name in ("item", "user"))
        for split in self.config.data.split_names[1:]:
            known = [
                f"{_percent(facts.familiar[split].candidates)} % by their {facts.name}"
                for facts in (item, user)
                if split in facts.familiar
            ]
            say(f"{split}: candidates that training knows: {', '.join(known)}")
        for line in self._findings:
            say(f"advice: {line}")

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
            "advice": self.advice,
        }


def profile_log(config: Config, base: Path) -> LogProfile:
    """Compute the profile of a config's log from its tables, which packing has accepted. Raises DataError."""
    data, schema, tables = config.data, config.declared, open_tables(config, base)
    sources = find_sources(
        schema, data, tables["log"], tables.get("items"), tables.get("users"), open_events(data, base)
    )
    last = tables["log"].frame.select(tables["log"].moment(data.time).max())
    summary = LogSummary(0, 0, int(tables["log"].collect(last).item()), {})
    return LogProfile.of(config, tables, sources, summary)


def _between(histogram: Mapping[int, int], begin: int, end: int | None) -> int:
    return sum(count for n, count in histogram.items() if begin <= n and (end is None or n < end))


def _range(begin: int, end: int | None) -> str:
    if end is None:
        return f"{begin} or more"
    return f"{begin}" if end == begin + 1 else f"{begin}-{end - 1}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"

"""The profile of a log under a config, from its tables alone, and advice: what makes learning hard, what to try."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from corank.core.reports import Report
from corank.core.time import DAY
from corank.data.column_sources import find_sources
from corank.data.event_tables import open_events
from corank.data.log_rows import scan_log
from corank.data.log_summary import LogSummary
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.data.vector_files import with_vector_files
from corank.training.checks.guidance import Guidance, Suggestion
from corank.training.checks.log_counts import FeatureFacts, LogCounts, SplitRows, count_log, measure_features
from corank.training.checks.outcome_columns import OutcomeColumns
from corank.training.checks.returns import Returns
from corank.training.config.config import Config

UNKNOWN = 0.3
"""From this share of unknown ids on, something else must tell candidates apart."""
UNIQUE, FEWEST = 0.9, 100
"""An id with more values than this share of the rows is of no use, if there are so many rows."""
SHIFT = 0.05
"""Missing rates of two splits that differ by more are reported."""
SINGLE = 0.5
"""From this share of requests without order on, metrics by request and list-wise losses are of a few requests."""


@dataclass(frozen=True)
class Advice:
    """A config with the profile of its log: what makes learning hard, and what to try."""

    config: Config
    counts: LogCounts
    features: Sequence[FeatureFacts]

    @property
    def lines(self) -> list[str]:
        """All advice, a line each; what costs most first."""
        return [
            *self._unknown_items(),
            *self._unknown_users(),
            *self._unknown_values(),
            *self._useless(),
            *self._shifts(),
            *self._requests(),
        ]

    def _familiar(self, name: str) -> Iterator[tuple[str, float]]:
        """Each split with less than it should know of a feature's values, and the unknown share."""
        facts = next(facts for facts in self.features if facts.name == name)
        for split, known in facts.familiar.items():
            if 1 - known.candidates >= UNKNOWN:
                yield split, 1 - known.candidates

    def _unknown_items(self) -> Iterator[str]:
        for split, share in self._familiar("item"):
            tried = " and ".join(self._for_new_items())
            then = f"add {tried}" if tried else "the item's id tells nothing of them"
            yield f"{share:.0%} of the candidates of '{split}' are items that training never saw: {then}"

    def _for_new_items(self) -> Iterator[str]:
        """Undeclared features that would distinguish new items."""
        schema = self.config.declared
        steps = [p.every for n, p in schema.priors().items() if schema.side(n) in ("item", "cross")]
        if not any(every < DAY for every in steps):
            shortest = min(steps, default=timedelta())
            yield "priors of the item with a short `every`, such as 10m" + (
                f" (the shortest is {shortest // timedelta(hours=1)}h)" if steps else ""
            )
        kinds = {schema.features[n].kind for n in schema.features if schema.side(n) == "item"}
        if "vector" not in kinds:
            yield "vectors of their content (kind: vector)"
        if "time" not in kinds:
            yield "their age, of a column of `items` with the time since which each is there (kind: time, kind: age)"

    def _unknown_users(self) -> Iterator[str]:
        for split, share in self._familiar("user"):
            yield (
                f"{share:.0%} of the candidates of '{split}' are of users that training never saw: their ids tell "
                "nothing; what tells is a history, the context, and priors by other keys"
            )

    def _unknown_values(self) -> Iterator[str]:
        own = {self.config.data.item, self.config.data.user}
        schema = self.config.declared
        for facts in self.features[1:]:
            if facts.name in schema.features and schema.column(facts.name) not in own:
                for split, share in self._familiar(facts.name):
                    yield (
                        f"{facts.name}: {share:.0%} of the candidates of '{split}' have a value that training never "
                        "saw; a coarser column, or its prior, may tell more"
                    )

    def _useless(self) -> Iterator[str]:
        schema, own = self.config.declared, {self.config.data.item, self.config.data.user}
        for facts in self.features:
            if facts.name not in schema.features or schema.column(facts.name) in own:
                continue
            if facts.missing.get("train") == 1:
                yield f"{facts.name}: always missing in the split 'train'; drop the feature or mend the column"
            elif facts.values == 1 and not facts.missing.get("train"):
                yield f"{facts.name}: the same value in all training rows, which tells nothing; drop the feature"
            elif facts.familiar and facts.rows >= FEWEST and (facts.values or 0) > UNIQUE * facts.rows:
                of = {"items": "items", "users": "users", "log": "candidates"}[facts.source]
                yield (
                    f"{facts.name}: {facts.values:,} values of {facts.rows:,} {of}, nearly one each, so that it tells "
                    "little but which one it is; use a coarser column, a higher `min_count`, or drop the feature"
                )

    def _shifts(self) -> Iterator[str]:
        for facts in self.features:
            usual = facts.missing.get("train", 0.0)
            for split, rate in facts.missing.items():
                if abs(rate - usual) > SHIFT:
                    yield (
                        f"{facts.name}: missing in {usual:.0%} of the candidates of 'train', but {rate:.0%} of "
                        f"'{split}'; a model takes the difference for something that it is not"
                    )

    def _requests(self) -> Iterator[str]:
        for label in dict.fromkeys(stage.main for stage in self.config.stages):
            requests = self.counts.requests["train"]
            clicked = sum(count for n, count in requests.positives[label].items() if n)
            if clicked and requests.ordered[label] < (1 - SINGLE) * clicked:
                yield (
                    f"{label}: of {clicked:,} requests of 'train' with a positive only {requests.ordered[label]:,} "
                    "have a negative beside it: metrics by request and list-wise losses are of these alone; compare "
                    "models by AUC and by metrics by user, too"
                )


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
    outcomes: Sequence[str]
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
        guidance = Guidance(config, tables, counts, features, returns)
        outcomes = OutcomeColumns(config, rows, sources).faults()
        return cls(config, counts, features, guidance.suggestions, guidance.recipe, outcomes)

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
    return LogProfile.of(config, *_open_log(config, base))


def find_outcomes(config: Config, base: Path) -> list[str]:
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

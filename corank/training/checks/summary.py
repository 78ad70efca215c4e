"""Summary of the data that a config would train on, computed before packing."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from corank.batches.sampling import Population
from corank.core.errors import DataError
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.grouping import refuse_contradictions
from corank.data.packing.pack import count_partitions
from corank.data.packing.sources import PackSources
from corank.data.request_columns import Source
from corank.engine.base import open_engine
from corank.training.checks.findings import Finding
from corank.training.checks.guidance import describe_recipe
from corank.training.checks.judgements import judge
from corank.training.checks.log_profile import profile_tables
from corank.training.checks.profile import Profile, find_single_buckets
from corank.training.checks.training_size import TrainingSize
from corank.training.config.config import Config
from corank.training.packed_data import open_packed, packed_location

BINS = (0, 1, 2, 3, 6, 11, 21, 51, 101, 201, 501, 1001)
"""Where the ranges begin by which candidates and positives of a request are shown."""
Rows = list[dict[str, Any]]
"""Of a table: column → cell."""


@dataclass(frozen=True)
class CheckSummary:
    """The data that a config would train on: features by tower, rows by table and split, candidates by loss."""

    config: Config
    features: Rows
    """Feature, side, kind, embedding table, what it is read or made from, and a mark for each input that it enters."""
    rows: dict[str, int]
    """Rows of each table."""
    splits: dict[str, int]
    """Candidates of the log in each split."""
    findings: Sequence[Finding]
    """Errors, for which training is refused, warnings, and advice; what counts most first."""
    profile: Profile
    """The profile of the log: its splits, known ids, requests by what they hold, and columns."""
    size: TrainingSize
    """Steps of the training, and a bound of its memory."""

    @property
    def samples(self) -> Rows:
        """Loss, weight, the stages that learn from it, and candidates per request of each level or other source."""
        total, rows = self.config.total, Rows()
        populations = [(name, term, term.population(total.funnel)) for name, term in total.select(None)]
        codes = sorted({code for _, _, population in populations for code in population})
        names = {code: total.funnel.source_name(code) for code in codes}
        for name, term, population in populations:
            row = {"loss": name, "weight": f"{term.weight:g}"}
            row["learns"] = term.learner or ", ".join(term.reads(total.funnel))
            rows.append(row | {names[code]: _wanted(population, code) for code in codes})
        return rows

    @property
    def labels(self) -> Rows:
        """Split, label, and exposed rows, or all of a label that is known everywhere, by what is known of the label."""
        return [
            {"split": split, "label": label, "exposed": counts.exposed, "known": counts.known}
            | counts._asdict()
            for split, split_counts in self.profile.splits.items()
            for label, counts in split_counts.labels.items()
        ]

    @property
    def outcomes(self) -> Rows:
        """Split, label that is known everywhere, level, and the level's candidates by what is known of the label."""
        levels = self.config.data.levels
        return [
            {
                "split": split,
                "label": label,
                "level": level,
                "candidates": counts.exposed,
                "known": counts.known,
            }
            | counts._asdict()
            for split, split_counts in self.profile.splits.items()
            for label, by_level in split_counts.by_level.items()
            for level, counts in zip(levels, by_level, strict=True)
        ]

    @property
    def targets(self) -> Rows:
        """Loss, and the rows that it learns from in an epoch of each split."""
        total, rows = self.config.total, Rows()
        for name, loss in total.select(None):
            row = {"loss": name}
            for split in (name for name in ("train", "valid") if name in self.splits):
                targets = loss.targets(self.profile.splits[split], total.funnel)._asdict()
                row |= {f"{split} {kind}": count for kind, count in targets.items()}
            rows.append(row)
        return rows

    @property
    def requests(self) -> Rows:
        """For each range of a number: how many requests of each split have so many candidates, and positives."""
        rows = Rows()
        for what in ("candidates", *dict.fromkeys(stage.main for stage in self.config.stages)):
            histograms = {
                split: counts.candidates if what == "candidates" else counts.positives[what]
                for split, counts in self.profile.requests.items()
            }
            for begin, end in zip(BINS, [*BINS[1:], math.inf], strict=True):
                counts = {
                    split: sum(count for n, count in histogram.items() if begin <= n < end)
                    for split, histogram in histograms.items()
                }
                if any(counts.values()):
                    rows.append({"number": _range(begin, end), "of": what} | counts)
        return rows

    @property
    def known(self) -> Rows:
        """Of each feature: its table, its values, what is missing, and what training knows of each other split."""
        rows = Rows()
        for column in self.profile.columns:
            row = {"feature": column.name, "table": column.source}
            row["values"] = "" if column.values is None else f"{column.values:,}"
            row |= {f"missing {s} %": _percent(column.missing.get(s)) for s in self.splits}
            for split in [*self.splits][1:]:
                known = column.familiar.get(split)
                row[f"known {split} %"] = _percent(known.candidates if known else None)
                row[f"{split} positives %"] = _percent(known.positives if known else None)
            rows.append(row)
        return rows

    @property
    def unread(self) -> dict[str, int]:
        """By split, the candidates that no loss reads: none takes their level."""
        read = self.config.total.population()
        logged = {level: most for level, most in read.items() if level < len(self.config.data.levels)}
        return {name: sum(split.levels) - split.rows(logged) for name, split in self.profile.splits.items()}

    @property
    def recipe(self) -> str:
        """Which losses fit the log and why, and whether the config has them."""
        return describe_recipe(self.profile)

    def document(self) -> dict[str, Any]:
        """The summary as plain values, as `corank check --json` prints it."""
        own = ("features", "rows", "splits", "samples", "labels", "outcomes", "targets")
        profile = self.profile
        return {
            "name": self.config.name,
            **{name: getattr(self, name) for name in own},
            "profile": {
                "requests": {
                    split: {
                        "candidates": dict(counts.candidates),
                        "positives": {label: dict(of) for label, of in counts.positives.items()},
                        "ordered": {label: of.requests for label, of in profile.splits[split].mixed.items()},
                    }
                    for split, counts in profile.requests.items()
                },
                "unread": self.unread,
                "features": [
                    {
                        "feature": column.name,
                        "table": column.source,
                        "values": column.values,
                        "rows": column.rows,
                        "missing": dict(column.missing),
                        "known": {split: known._asdict() for split, known in column.familiar.items()},
                    }
                    for column in profile.columns
                ],
                "recipe": self.recipe,
            },
            "training": self.size.document(),
            "findings": [finding.document() for finding in self.findings],
        }


def check_config(config: Config, base: Path) -> CheckSummary:
    """Summarise what a config would train on.

    What training would refuse for lack of positives or negatives is the first of the result's `findings`.
    Raises ConfigError, DataError, as `corank pack` would.
    """
    with open_engine() as engine, TemporaryDirectory() as spill:
        inputs = PackSources.open(config.data, config.declared, base, engine)
        items, users, logged = inputs.read_ids(Path(spill), engine)
        inputs.read_items(items["value"], logged)
        inputs.read_users(users["value"])
    refuse_contradictions(inputs, count_partitions(inputs.summary.rows))
    named = {"log": inputs.log, "items": inputs.items, "users": inputs.users, "truth": inputs.truth}
    tables = {name: table for name, table in named.items() if table is not None}
    profile = profile_tables(config, tables, inputs.sources, inputs.summary.last)
    packed: PackedDataset | None = None  # if they lie on this machine
    if isinstance(packed_location(profile.config, base), Path):
        with suppress(DataError):
            packed = open_packed(profile.config, base)
            profile = replace(profile, single=find_single_buckets(packed))
    return CheckSummary(
        profile.config,
        [_feature_row(config, name, inputs.sources) for name in config.features],
        {n: int(t.collect(t.frame.select(pl.len())).item()) for n, t in tables.items()},
        inputs.summary.splits,
        judge(profile),
        profile,
        TrainingSize.of(profile.config, profile.splits, packed),
    )


def _wanted(population: Population, code: int) -> str:
    return "" if code not in population else "all" if population[code] is None else str(population[code])


def _feature_row(config: Config, name: str, sources: Mapping[str, Source]) -> dict[str, str]:
    feature, schema = config.declared.features[name], config.declared
    table = schema.table_of(name) if name in schema.embedded() else "-" if feature.is_input else "no input"
    row = {"feature": name, "side": schema.side(name), "kind": feature.kind}
    row |= {"from": feature.made_of or sources.get(name, "log"), "table": table}
    for network in config.networks.values():
        inputs = network.input_features(schema)
        row |= {title: "x" if name in entering else "" for title, entering in inputs.items()}
    return row


def _range(begin: int, end: float) -> str:
    if end == math.inf:
        return f"{begin} or more"
    return f"{begin}" if end == begin + 1 else f"{begin}-{end - 1}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"

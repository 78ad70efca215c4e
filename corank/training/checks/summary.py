"""Summary of the data that a config would train on, computed before packing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from corank.batches.sampling import SOURCES, Population
from corank.core.errors import DataError
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.grouping import refuse_contradictions
from corank.data.packing.pack import count_partitions
from corank.data.packing.sources import PackSources
from corank.data.request_columns import Source
from corank.engine.base import open_engine
from corank.training.checks.data_check import TrainingDataCheck, find_single_buckets
from corank.training.checks.findings import Finding
from corank.training.checks.log_profile import LogProfile
from corank.training.checks.training_size import TrainingSize
from corank.training.config.config import Config, plan_training
from corank.training.packed_data import open_packed, packed_location


@dataclass(frozen=True)
class CheckSummary:
    """The data that a config would train on: features by tower, rows by table and split, candidates by loss."""

    config: Config
    features: list[dict[str, str]]
    """Feature, side, kind, embedding table, what it is read or made from, and a mark for each input that it enters."""
    rows: dict[str, int]
    """Rows of each table."""
    splits: dict[str, int]
    """Candidates of the log in each split."""
    samples: list[dict[str, str]]
    """Loss, weight, the stages that learn from it, and candidates per request of each level or other source."""
    data_check: TrainingDataCheck
    """Counts of the splits."""
    findings: Sequence[Finding]
    """Errors, for which training is refused, warnings, and advice; what counts most first."""
    profile: LogProfile
    """The profile of the log: known ids, requests by what they hold, and columns."""
    size: TrainingSize
    """Steps of the training, and a bound of its memory."""

    @property
    def labels(self) -> list[dict[str, str | int]]:
        """Split, label, and exposed rows by what is known of the label."""
        rows = []
        for split, split_counts in self.data_check.splits.items():
            for label, counts in split_counts.labels.items():
                row: dict[str, str | int] = {"split": split, "label": label}
                rows.append(row | {"exposed": counts.exposed, "known": counts.known} | counts._asdict())
        return rows

    @property
    def targets(self) -> list[dict[str, str | int]]:
        """Loss, and the rows that it learns from in an epoch of each split."""
        total, splits = self.config.total, self.data_check.splits
        rows: list[dict[str, str | int]] = []
        for name, loss in total.select(None):
            row: dict[str, str | int] = {"loss": name}
            for split in (name for name in ("train", "valid") if name in splits):
                targets = loss.targets(splits[split], total.funnel)
                row |= {f"{split} {kind}": count for kind, count in targets._asdict().items()}
            rows.append(row)
        return rows

    def document(self) -> dict[str, Any]:
        """The summary as plain values, as `corank check --json` prints it."""
        return {
            "name": self.config.name,
            "features": self.features,
            "rows": self.rows,
            "splits": self.splits,
            "samples": self.samples,
            "labels": self.labels,
            "targets": self.targets,
            "profile": self.profile.document(),
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
        ids = inputs.read_ids(Path(spill), engine)
        inputs.read_items(ids)
        inputs.read_users(ids.users["value"])
    refuse_contradictions(inputs, count_partitions(inputs.summary.rows))
    named = {"log": inputs.log, "items": inputs.items, "users": inputs.users, "truth": inputs.truth}
    tables = {name: table for name, table in named.items() if table is not None}
    profile = LogProfile.of(config, tables, inputs.sources, inputs.summary)
    profile = replace(profile, config=plan_training(config, profile.counts.splits["train"].requests))
    config, packed = profile.config, _open_if_packed(config, base)
    data_check = TrainingDataCheck(
        config,
        profile.counts.splits,
        profile.counts.misplaced,
        single=[] if packed is None else find_single_buckets(packed),
        outcomes=profile.outcomes,
        log=profile.facts,
    )
    return CheckSummary(
        config,
        [_feature_row(config, name, inputs.sources) for name in config.features],
        {n: int(t.collect(t.frame.select(pl.len())).item()) for n, t in tables.items()},
        inputs.summary.splits,
        _samples(config),
        data_check,
        data_check.findings,
        profile,
        TrainingSize.of(config, profile.counts.splits, packed),
    )


def _open_if_packed(config: Config, base: Path) -> PackedDataset | None:
    """The packed data of a config, if they lie on this machine."""
    if isinstance(packed_location(config, base), Path):
        with suppress(DataError):
            return open_packed(config, base)
    return None


def _samples(config: Config) -> list[dict[str, str]]:
    total = config.total
    names = dict(enumerate(total.funnel.levels)) | {code: source for source, code in SOURCES.items()}
    populations = [(name, term, term.population(total.funnel)) for name, term in total.select(None)]
    codes = sorted({code for _, _, population in populations for code in population})
    rows = []
    for name, term, population in populations:
        row = {"loss": name, "weight": f"{term.weight:g}"}
        row["learns"] = term.learner or ", ".join(term.reads(total.funnel))
        row |= {names[code]: _count(population, code) for code in codes}
        rows.append(row)
    return rows


def _count(population: Population, code: int) -> str:
    if code not in population:
        return ""
    count = population[code]
    return "all" if count is None else str(count)


def _feature_row(config: Config, name: str, sources: Mapping[str, Source]) -> dict[str, str]:
    feature, schema = config.declared.features[name], config.declared
    table = schema.table_of(name) if name in schema.embedded() else "-" if feature.is_input else "no input"
    row = {"feature": name, "side": schema.side(name), "kind": feature.kind}
    row |= {"from": feature.made_of or sources.get(name, "log"), "table": table}
    for network in config.networks.values():
        inputs = network.input_features(schema)
        row |= {title: "x" if name in entering else "" for title, entering in inputs.items()}
    return row

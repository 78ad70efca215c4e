"""Steps before training, as functions on paths: check a config, pack its tables. Loads no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Self, overload

import polars as pl
from annotated_types import Ge

from corank.analysis.check_view import check_view
from corank.analysis.html import render_part
from corank.api.config_source import ConfigSource, OpenedConfig
from corank.api.frames import TableSource
from corank.api.measuring import DriftResult
from corank.api.progress import show_progress
from corank.api.results import DocumentResult, Result, flatten, frame
from corank.core.errors import UsageError
from corank.core.objects import PathOrUrl, parse_location
from corank.core.options import Option, Overrides
from corank.core.reports import Progress, Report
from corank.core.view import View
from corank.data.packed.dataset import PackedDataset
from corank.engine.base import open_engine
from corank.training.checks.findings import refuse_errors
from corank.training.checks.summary import CheckSummary, check_config
from corank.training.packed_data import local_root, open_earlier, pack_config, verify_packed


@dataclass(frozen=True, repr=False)
class CheckResult(CheckSummary, Result):
    """What a config would train on: features, rows, candidates by loss, and findings.

    Example:
        >>> check = corank.check("shop/config.yaml")
        >>> check.rows["log"], check.tables["labels"].columns[:3]
        (36000, ['split', 'label', 'exposed'])
    """

    everything: bool = False
    """Whether the command prints all findings and tables."""

    @classmethod
    def of(cls, summary: CheckSummary, everything: bool = False) -> Self:
        """The same facts, with tables and a notebook's view."""
        facts = {field.name: getattr(summary, field.name) for field in fields(CheckSummary)}
        return cls(**facts, everything=everything)

    @property
    def headline(self) -> str:
        """The config's name, the rows of its tables, and the candidates of each split."""
        tables = [f"{name} {rows:,} rows" for name, rows in self.rows.items()]
        splits = [f"{name} {candidates:,} candidates" for name, candidates in self.splits.items()]
        return f"{self.config.name}: {', '.join([*tables, *splits])}"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`features`, which tower each enters; `samples` and `targets`, what each loss learns from; `labels`;
        `requests`, by size; `known`, what training knows of the other splits; `findings`, what counts most first."""
        names = ("features", "samples", "labels", "targets", "requests", "known")
        texts = ["severity", "where", "finding"]
        found = frame((finding.document() | {"where": finding.where} for finding in self.findings), texts)
        return {name: pl.DataFrame(getattr(self, name)) for name in names} | {"findings": found}

    def require(self) -> None:
        """Raise DataError if a training could not learn from the log."""
        refuse_errors(self.findings)

    def view(self) -> View:
        """What there is to learn from, and findings; the command ends with the errors, on stderr."""
        return check_view(self, self.everything, errors=False)

    def _repr_html_(self) -> str:
        return render_part(check_view(self, complete=True))

    def to_json(self) -> str:
        """All of it as JSON text, as `corank check --json` prints it."""
        return json.dumps(self.document(), indent=1, allow_nan=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"


@dataclass(frozen=True, eq=False, repr=False)
class PackResult(DocumentResult):
    """Packed data, and how much they hold.

    Example:
        >>> result = corank.pack("shop/config.yaml")
        >>> result.tables["splits"].columns
        ['split', 'requests', 'candidates', 'shards']
        >>> str(result.packed.location), sum(result["levels"].values())
        ('shop/packed/shop', 36000)
    """

    packed: PackedDataset = field(kw_only=True)
    """The memory-mapped arrays."""

    @classmethod
    def of(cls, packed: PackedDataset) -> Self:
        """The result of a packing, from its manifest."""
        manifest = packed.manifest
        splits = {
            split: {
                "requests": sum(shard.requests for shard in shards),
                "candidates": sum(shard.candidates for shard in shards),
                "shards": len(shards),
            }
            for split, shards in manifest.splits.items()
        }
        document = {
            "packed": str(packed.location),
            "splits": splits,
            "levels": manifest.levels,
            "dropped": manifest.dropped,
            "features": list(manifest.features),
            "bytes": manifest.size,
            "grown": {name: rows.model_dump() for name, rows in manifest.grown.items()},
        }
        return cls(document, packed=packed)

    @property
    def headline(self) -> str:
        """Location and size of the data."""
        candidates = sum(counts["candidates"] for counts in self["splits"].values())
        return f"{self['packed']}: {candidates:,} candidates, {self['bytes'] / 2**20:,.1f} MiB"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`splits`: requests, candidates and shards; `levels`: candidates; `dropped`: rows that were left out, by
        reason; `embeddings`: rows of each table that training learns; `grown`, with `--from`: what is new and gone."""
        columns = {
            "levels": ("level", "candidates", self["levels"]),
            "dropped": ("reason", "rows", self["dropped"]),
            "embeddings": ("table", "rows", self.packed.encoders.sizes),
        }
        counts = {
            n: pl.DataFrame({key: [*rows], of: [*rows.values()]}) for n, (key, of, rows) in columns.items()
        }
        splits = {"splits": pl.DataFrame([*flatten(self["splits"], "split")])}
        if not self["grown"]:
            return splits | counts
        numbers = dict.fromkeys(("admitted", "evicted", "free"), pl.Int64)
        grown = frame(flatten(self["grown"], "feature"), ["feature"], **numbers)
        return {**splits, **counts, "grown": grown}

    @property
    def lines(self) -> Sequence[str]:
        """Where the data lie."""
        return [f"packed: {self.packed.location}"]


@overload
def check(
    config: ConfigSource,
    overrides: Overrides = (),
    without: Sequence[str] = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
    against: None = None,
    *,
    everything: bool = False,
) -> CheckResult: ...


@overload
def check(
    config: ConfigSource,
    overrides: Overrides = (),
    without: Sequence[str] = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
    *,
    against: PathOrUrl,
    everything: bool = False,
) -> DriftResult: ...


@overload
def check(*, report: Report = lambda line: None, verify: PathOrUrl) -> PackResult: ...


def check(
    config: Annotated[ConfigSource | None, Option("CONFIG")] = None,
    overrides: Overrides = (),
    without: Sequence[str] = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
    against: PathOrUrl | None = None,
    verify: PathOrUrl | None = None,
    everything: Annotated[bool, Option("--all")] = False,
) -> CheckResult | DriftResult | PackResult:
    """Read a config and scan its tables, without packing or training; or compare checksums of packed data.

    Args:
        config: a YAML file (relative paths begin in its folder), a mapping or `corank.Config` (in the working
            directory).
        overrides: `a.b=value` changes of the config, as in `--set`.
        without: features to remove, as in `--without`.
        report: receives a line if derived features are removed, too.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.
        against: a finished run, or its URL: compare its training rows with the later ones of the split `train`.
        verify: packed data or their URL, instead of a config: compare the checksums of all files.
        everything: print all findings and all tables of a config, not a screen.

    Returns what would be trained: which feature enters which tower, rows by table, candidates by split and by loss.
    `findings` begin with what training rejects. With `against`: the figures of the new rows and of the run, with their
    thresholds (`drift` of the config), and the `reasons` to reject the rows. With `verify`: the packed data.
    Raises ConfigError, DataError, CheckpointError.

    Example:
        >>> check = corank.check("shop/config.yaml", ["train.epochs=2"])
        >>> check.rows["log"], check.config.train.epochs
        (36000, 2)
    """
    if verify is not None:
        if config is not None or overrides or without or tables or against is not None or everything:
            raise UsageError("--verify takes packed data only; drop the config and its options")
        return PackResult.of(verify_packed(parse_location(verify), report))
    if config is None:
        raise UsageError("expected a config, or packed data as --verify PACKED")
    opened = OpenedConfig.open(config, overrides, without, report, tables).with_moments()
    with opened.frames.named():
        if against is not None:
            from corank.training.drift.drift import measure_drift
            from corank.training.run import Run

            run = Run.open(parse_location(against))
            return DriftResult.of(measure_drift(opened.settings, opened.base, run), everything)
        return CheckResult.of(check_config(opened.settings, opened.base), everything)


def pack(
    config: ConfigSource,
    overrides: Overrides = (),
    report: Report = lambda line: None,
    workers: Annotated[int, Ge(1)] = 1,
    engine: str | None = None,
    without: Sequence[str] = (),
    prune: bool = False,
    tables: Mapping[str, TableSource] | None = None,
    progress: Progress = lambda done, total: None,
    continue_from: Annotated[PathOrUrl | None, Option("--from")] = None,
    fixed: bool = False,
    repack: str | None = None,
) -> PackResult:
    """Pack the tables of a config into memory-mapped arrays, at its `packed`, or in `packed/NAME` next to it.

    Frames among the tables are written as Parquet, named by content, to `packed/NAME.tables`. Packing a frame gives the
    arrays that packing its file gives.

    Args:
        config: a YAML file, a mapping, or `corank.Config`.
        overrides: `a.b=value` changes of the config.
        report: takes a line about each step.
        workers: how many tasks run at a time. The files are the same for any number and any engine.
        engine: `in_line`, `pool`, `ray` (experimental) or a plug-in's; a pool of processes for several workers.
        without: features to remove, as in `--without`.
        prune: then remove the packed sets of features that neither this config nor a run next to it uses.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.
        progress: takes how many tasks are done, and how many are known by now: each step adds its own.
        continue_from: packed data or their URL, or a run's folder, to continue from: only rows after their training are
            packed, into a folder of their own, with the vocabularies, scales, priors and histories that they had.
        fixed: then keep vocabularies as they are; none admits or evicts values.
        repack: a day, such as `2026-04-28`, from which on rows are packed again, with those that came late: from the
            newest packing before it among `continue_from` and those that it continues.

    Returns the packed data, and how much they hold. Raises ConfigError, DataError, EngineError, and BusyError if
    another process packs there.

    Example:
        >>> sorted(corank.pack("shop/config.yaml")["splits"])
        ['test', 'train', 'valid']
    """
    opened_config = OpenedConfig.open(config, overrides, without, report, tables).with_moments()
    with (
        open_engine(engine, workers) as opened,
        opened_config.frames.named(),
        show_progress("tasks", progress) as opened.progress,
    ):
        if prune:
            # refuses data at a URL before anything is packed
            local_root(opened_config.settings, opened_config.base)
        earlier = open_earlier(continue_from, opened_config.settings.data, fixed, repack)
        packed = pack_config(opened_config.settings, opened_config.base, report, opened, earlier)
    if prune:
        from corank.training.run import prune_packed

        prune_packed(opened_config.settings, opened_config.base, report)
    return PackResult.of(packed)

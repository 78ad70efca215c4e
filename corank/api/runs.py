"""Steps before training: check a config, pack its tables. Loads no torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, overload

from corank.api.config_source import ConfigSource, OpenedConfig
from corank.api.frames import TableSource
from corank.api.notebook.counting import show_progress
from corank.api.results.check_result import CheckResult
from corank.api.results.pack_result import PackResult
from corank.core.storage.object_url import PathOrUrl, parse_location
from corank.core.types import Progress, Report
from corank.engine.base import open_engine
from corank.training.check import check_config
from corank.training.preparation.continuation import open_earlier
from corank.training.preparation.packed_data import local_root, pack_config

if TYPE_CHECKING:
    from corank.api.results.validation_result import ValidationResult


@overload
def check(
    config: ConfigSource,
    overrides: Sequence[str] = (),
    without: Sequence[str] = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
    against: None = None,
) -> CheckResult: ...


@overload
def check(
    config: ConfigSource,
    overrides: Sequence[str] = (),
    without: Sequence[str] = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
    *,
    against: PathOrUrl,
) -> "ValidationResult": ...


def check(
    config: ConfigSource,
    overrides: Sequence[str] = (),
    without: Sequence[str] = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
    against: PathOrUrl | None = None,
) -> "CheckResult | ValidationResult":
    """Read a config and scan its tables, without packing or training.

    Args:
        config: a YAML file, in whose folder its relative paths begin; or a mapping or `corank.Config`, whose begin in
            the working directory.
        overrides: `a.b=value` changes of the config, as in `--set`.
        without: features to remove, as in `--without`.
        report: receives a line if others are removed, too, which are made of them.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.
        against: a finished run, or its URL, with whose training rows the later ones of the split `train` are compared.

    Returns what would be trained: which feature enters which tower, rows by table, candidates by split and by loss.
    What training would refuse is the first of its `advice`. With `against` the figures of the new rows next to those of
    the run, with their thresholds (`validation` of the config), and the `reasons` for which the rows are refused; of
    rows that are accepted also how many rows each vocabulary would admit and evict.
    Raises ConfigError, DataError, CheckpointError.

    Example:
        >>> check = corank.check("shop/config.yaml", ["train.epochs=2"])
        >>> check.rows["log"], check.config.train.epochs
        (36000, 2)
    """
    opened = OpenedConfig.open(config, overrides, without, report, tables).with_moments()
    with opened.frames.named():
        if against is not None:
            return _validate(opened, against)
        return CheckResult.of(check_config(opened.settings, opened.base))


def _validate(opened: OpenedConfig, against: PathOrUrl) -> "ValidationResult":
    from corank.api.results.validation_result import ValidationResult  # which loads torch, as a run does
    from corank.training.run import Run
    from corank.training.validation.validation import validate_against

    run = Run.open(parse_location(against))
    return ValidationResult.of(validate_against(opened.settings, opened.base, run))


def pack(
    config: ConfigSource,
    overrides: Sequence[str] = (),
    report: Report = lambda line: None,
    workers: int = 1,
    engine: str | None = None,
    address: str | None = None,
    without: Sequence[str] = (),
    prune: bool = False,
    tables: Mapping[str, TableSource] | None = None,
    progress: Progress = lambda done, total: None,
    continue_from: PathOrUrl | None = None,
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
        engine: `in_line`, `pool`, `ray` or a plug-in's; a pool of processes if there are several workers.
        address: of a cluster, for an engine that takes one. Its machines share the file system of the config's folder.
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
        open_engine(engine, workers, address) as opened,
        opened_config.frames.named(),
        show_progress("tasks", progress) as opened.progress,
    ):
        if prune:
            # refuses data at a URL before anything is packed
            local_root(opened_config.settings, opened_config.base)
        earlier = open_earlier(continue_from, opened_config.settings.data, fixed, repack)
        packed = pack_config(opened_config.settings, opened_config.base, report, opened, earlier)
    if prune:
        from corank.training.preparation.unused_sets import prune_packed  # reads runs, so it loads torch

        prune_packed(opened_config.settings, opened_config.base, report)
    return PackResult.of(packed)

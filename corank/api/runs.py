"""The commands from config to bundle, as functions on paths. Each raises a CorankError for a mistake of the user."""

from collections.abc import Mapping, Sequence

from corank.api.config_source import ConfigSource, OpenedConfig
from corank.api.frames import TableSource
from corank.api.notebook.counting import show_progress
from corank.api.results.bundle_results import BundleResult
from corank.api.results.check_result import CheckResult
from corank.api.results.pack_result import PackResult
from corank.bundle.bundle_writer import replace_bundle
from corank.bundle.items_as_of import ItemsAsOf
from corank.bundle.signatures import SigningKeys
from corank.core.storage.object_url import PathOrUrl, parse_location, require_local
from corank.core.types import Progress, Report
from corank.engine.base import open_engine
from corank.training.check import check_config
from corank.training.export import export_bundle
from corank.training.preparation.packed_data import pack_config
from corank.training.preparation.unused_sets import local_root, prune_packed
from corank.training.run import Run


def check(
    config: ConfigSource,
    overrides: Sequence[str] = (),
    without: Sequence[str] = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
) -> CheckResult:
    """Read a config and scan its tables, without packing or training.

    Args:
        config: a YAML file, in whose folder its relative paths begin; or a mapping or `corank.Config`, whose begin in
            the working directory.
        overrides: `a.b=value` changes of the config, as of `--set`.
        without: features to remove, as of `--without`.
        report: receives a line if others are removed, too, which are made of them.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.

    Returns what would be trained: which feature enters which tower, rows by table, candidates by split and by loss.
    What training would refuse is the first of its `advice`. Raises ConfigError, DataError.

    Example:
        >>> found = corank.check("shop/config.yaml", ["train.epochs=2"])
        >>> found.rows["log"], found.config.train.epochs
        (36000, 2)
    """
    opened = OpenedConfig.open(config, overrides, without, report, tables)
    with opened.frames.named():
        return CheckResult.of(check_config(opened.settings, opened.base))


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
) -> PackResult:
    """Pack the tables of a config into memory-mapped arrays, at its `packed`, or in `packed/NAME` beside it.

    Frames among the tables are written as Parquet, named by content, to `packed/NAME.tables`. Packing a frame gives the
    arrays that packing its file gives.

    Args:
        config: a YAML file, a mapping, or `corank.Config`.
        overrides: `a.b=value` changes of the config.
        report: takes a line about each step.
        workers: how many tasks run at a time. The files are the same for any number and any engine.
        engine: `in_line`, `pool`, `ray` or a plug-in's; a pool of processes if there are several workers.
        address: of a cluster, for an engine that takes one. Its machines share the file system of the config's folder.
        without: features to remove, as of `--without`.
        prune: then remove the packed sets of features that neither this config nor a run beside it uses.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.
        progress: takes how many tasks are done, and how many are known by now: each step adds its own.

    Returns the packed data, and how much they hold. Raises ConfigError, DataError, EngineError, and BusyError if
    another process packs there.

    Example:
        >>> sorted(corank.pack("shop/config.yaml")["splits"])
        ['test', 'train', 'valid']
    """
    given = OpenedConfig.open(config, overrides, without, report, tables)
    with (
        open_engine(engine, workers, address) as opened,
        given.frames.named(),
        show_progress("tasks", progress) as opened.progress,
    ):
        if prune:
            local_root(given.settings, given.base)  # refuses data at a URL before anything is packed
        packed = pack_config(given.settings, given.base, report, opened)
    if prune:
        prune_packed(given.settings, given.base, report)
    return PackResult.of(packed)


def export(
    run: PathOrUrl,
    bundle: PathOrUrl,
    sign: Sequence[PathOrUrl] = (),
    items_as_of: str | None = None,
    until: str | None = None,
) -> BundleResult:
    """Write the bundle of a finished run, whole or not at all.

    Args:
        run: the run's folder, or its URL.
        bundle: the bundle's folder, or its URL; an earlier bundle there is replaced.
        sign: private ed25519 keys, PEM files, that sign the bundle.
        items_as_of: what the run's table of items contains: a change of the store, such as `42`, or a day or a time
            in the config's time zone. Items upserted later go on top of the version; all do unless given.
        until: a day or a time in the config's time zone until which the log is complete; its last row unless given.
            Priors are of the last snapshot at or before it: `2026-05-01` takes all of 30 April.

    Returns the bundle, and what it holds. Raises CheckpointError, DataError, BundleError, TrustError, and BusyError if
    another process writes the bundle.

    Example:
        >>> corank.export("shop/runs/shop", "exported")["stages"]
        ['prerank', 'rank']
    """
    keys = SigningKeys.load([require_local(key) for key in sign])
    location, opened = parse_location(bundle), Run.open(parse_location(run))
    packed = opened.packed()
    as_of = None if items_as_of is None else ItemsAsOf.parse(items_as_of, opened.config.data)
    moment = None if until is None else opened.config.data.milliseconds(until)
    model, calibrators, weights = opened.networks(packed)
    written = replace_bundle(
        location,
        lambda folder: export_bundle(
            folder, opened.config, packed, model, calibrators, keys, as_of, weights, moment
        ),
        reads=False,
    )
    return BundleResult.of(written, location)

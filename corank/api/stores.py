"""The commands that put a bundle into service, as functions on paths and store addresses, without torch.

Each raises a CorankError for a mistake of the user. Store addresses are `lmdb:PATH`, `redis://HOST:PORT/DB`,
`redis+cluster://HOST:PORT` or of a plug-in's store.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from corank.api.bundles import export
from corank.api.frames import TableSource, temporary_frames
from corank.api.notebook.counting import show_progress
from corank.api.results.bundle_results import PublishResult
from corank.bundle.bundle import Bundle
from corank.bundle.catalogue.vector_index import VectorIndexKind
from corank.bundle.catalogue.vectors import write_catalogue
from corank.bundle.manifest import load_manifest
from corank.bundle.signatures import SigningKeys
from corank.core.errors import ConfigError, StorageError
from corank.core.storage.local_copy import write_file
from corank.core.storage.object_url import Location, PathOrUrl, parse_location, require_local
from corank.core.storage.published_folder import PublishedFolder
from corank.core.types import Progress, Report
from corank.data.dataset import PackedDataset
from corank.engine.base import describe_memory, open_engine
from corank.serving.prediction.predict import OpenPacked, PredictedLog, predict_log
from corank.serving.store.base import open_store
from corank.serving.store.changes.merged_items import MergedItems
from corank.serving.store.publish import publish_bundle
from corank.serving.store.users import put_users


def publish(
    bundle: PathOrUrl,
    store: str,
    users: TableSource | None = None,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
    sign: Sequence[PathOrUrl] = (),
    stage: bool = False,
) -> PublishResult:
    """Put a bundle into a store and make it live, whole or not at all.

    Args:
        bundle: the bundle's folder, or its URL.
        store: the store's address; an LMDB store that does not exist is created.
        users: a table of users, for requests that give a user's id alone: files or a frame.
        report: takes a line about each step.
        progress: takes how many records are written, and of how many.
        sign: private ed25519 keys, PEM files, that sign the version, and that it is live.
        stage: whether to leave what is live as it is: `corank serve --canary` serves the version to some, `promote`
            makes it live.

    Returns the version, and what became of items that were upserted before. Raises BundleError, DataError, StoreError,
    TrustError; the live version is unchanged then.

    Example:
        >>> version = corank.publish("bundle", "lmdb:store", users="shop/users.parquet").version
        >>> [entry["version"] == version for entry in corank.store_versions("lmdb:store") if entry["live"]]
        [True]
    """
    keys, location = SigningKeys.load([require_local(key) for key in sign]), parse_location(bundle)
    load_manifest(location)  # a folder that cannot be read as a bundle creates no store
    merged: list[MergedItems] = []
    with (
        closing(open_store(store, create=True)) as opened,
        temporary_frames() as frames,
        show_progress("records", progress) as advance,
    ):
        if users is not None:
            count = put_users(frames.source("users", users), Bundle.open(location), opened)
            report(f"users: {count:,}")
        version = publish_bundle(location, opened, report, advance, keys, merged.append, stage)
    return PublishResult.of(version, merged[0] if merged else None)


def vectors(
    bundle: PathOrUrl,
    items: TableSource,
    out: PathOrUrl,
    progress: Progress = lambda done, total: None,
    workers: int = 1,
    engine: str | None = None,
    address: str | None = None,
    report: Report = lambda line: None,
    index: VectorIndexKind | None = None,
    parts: Sequence[str] = (),
) -> int:
    """Write the vectors that a bundle's item towers give a table of items, or other item parts, as Parquet.

    Args:
        bundle: the bundle's folder, or its URL.
        items: the table: a frame, or a file, a glob or a URL, which need not fit into memory.
        out: the file to write, or its URL.
        progress: takes how many items are done, and of how many.
        workers: how many tasks run at a time. The file is the same for any number and any engine.
        engine: `in_line`, `pool`, `ray` or a plug-in's; a pool of processes if there are several workers.
        address: of a cluster, for an engine that takes one. Its machines share the file system of bundle and `out`.
        report: takes a line about each index, and one about the memory that was held.
        index: `ivf` or `ivf_pq` builds a FAISS index of each stage's vectors, `NAME.STAGE.faiss` next to `out`, which
            is no URL then.
        parts: `STAGE.PART`, such as `rank.item`, the ranker's first-layer sums, each in a column `PART.STAGE`, rounded
            as the bundle stores it; the vectors of all stages unless given.

    Returns the number of items. Raises BundleError, ConfigError, DataError, EngineError.

    Example:
        >>> corank.vectors("bundle", pl.read_parquet("shop/items.parquet"), "vectors.parquet")
        120
    """
    location = parse_location(out)
    if index is not None and not isinstance(location, Path):
        raise ConfigError(
            f"--index: the index lies beside OUT, which must be on this machine; received {location}"
        )
    beside = location.parent if isinstance(location, Path) else None
    with (
        temporary_frames(beside) as frames,
        open_engine(engine, workers, address) as opened,
        write_file(location) as path,
        show_progress("items", progress) as advance,
    ):
        table = frames.source("items", items)
        written = write_catalogue(parse_location(bundle), table, path, opened, advance, index, report, parts)
        report(describe_memory(opened))
    return written


def predict(
    source: PathOrUrl,
    log: TableSource,
    out: PathOrUrl,
    users: TableSource | None = None,
    workers: int = 1,
    engine: str | None = None,
    address: str | None = None,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
    events: Mapping[str, TableSource] | None = None,
    as_served: bool = False,
) -> PredictedLog:
    """Write what every stage computes of each candidate of a log: logits, probabilities, values.

    Args:
        source: the folder of a bundle or of a finished run, or its URL; a run is exported to a temporary bundle, and
            its packed data say what priors, ages and items were at the time of a row.
        log: the table of candidates: files, globs, URLs or a frame. Histories are of the events in it.
        out: the folder to write Parquet files into; it is not there, or empty.
        users: the table of users, if the bundle reads one.
        workers: how many tasks run at a time. The files are the same for any number and any engine.
        engine: `in_line`, `pool`, `ray` or a plug-in's; a pool of processes if there are several workers.
        address: of a cluster, for an engine that takes one. Its machines share the file system of bundle and `out`.
        report: takes a line about the memory that was held.
        progress: takes how many partitions are done, and of how many.
        events: by name of `data.events`, the tables that the bundle's histories are made of.
        as_served: whether all rows get the priors, ages and items that a service has now. Otherwise a bundle refuses
            rows that are older than its snapshots of priors, which count the labels of these rows.

    Returns how many requests and candidates there were, and how many of these the bundle does not know. Raises
    BundleError, CheckpointError, DataError, EngineError.

    Example:
        >>> users = pl.read_parquet("shop/users.parquet")
        >>> corank.predict("bundle", "shop/log/*.parquet", "predictions", users=users).candidates
        36000
    """
    folder = require_local(out)
    with (
        temporary_frames(folder.absolute().parent) as frames,
        open_engine(engine, workers, address) as opened,
        _bundle_of(parse_location(source), folder) as (bundle, packed),
        show_progress("partitions", progress) as advance,
    ):
        tables, events_of = frames.source("log", log), frames.sources(events)
        user_table = frames.source("users", users)
        packed = None if as_served else packed
        prediction = predict_log(
            bundle, tables, user_table, folder, opened, advance, events_of, packed=packed, as_served=as_served
        )
        report(describe_memory(opened))
    return prediction


@contextmanager
def _bundle_of(source: Location, out: Path) -> Iterator[tuple[Location, OpenPacked | None]]:
    """A bundle as it is; of a run, one that lasts as long as the block, next to `out`, where all workers can read.

    A run's packed data can be opened, too.
    """
    if not _is_run(source):
        yield source, None
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        bundle = Path(folder) / "bundle"
        export(str(source), bundle)
        yield bundle, partial(_open_packed, source)


def _open_packed(run: Location) -> PackedDataset:
    from corank.training.run import Run  # which loads torch, as the export did

    return Run.open(run).packed()


def _is_run(source: Location) -> bool:
    """Whether a run lies there; any other fault is reported when it is opened as a bundle."""
    if isinstance(source, Path):
        return (source / "run.json").is_file()
    with suppress(StorageError):
        PublishedFolder.open(source, "run")
        return True
    return False

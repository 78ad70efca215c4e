"""A log scored and vectors of a catalogue written, as functions on paths, without torch.

Each raises a CorankError for a mistake of the user.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from corank.analysis.scored_log import ScoredLog
from corank.api.bundles import export
from corank.api.frames import TableSource, temporary_frames
from corank.api.progress import show_progress
from corank.bundle.catalogue_vectors import write_catalogue
from corank.bundle.manifest import BundleManifest, load_manifest
from corank.core.artifact_cache import read_facts, write_file
from corank.core.errors import ConfigError, StorageError
from corank.core.lazy import require
from corank.core.objects import Location, PathOrUrl, parse_location, require_local
from corank.core.options import EVENTS, Option, printed
from corank.core.reports import Progress, Report
from corank.data.packed.dataset import PackedDataset
from corank.data.tables import find_source_files
from corank.engine.base import Engine, describe_memory, open_engine
from corank.funnel.log_requests import list_event_tables, list_user_columns
from corank.funnel.predict import PredictedLog, predict_log
from corank.training.run_file import RUN_FILE
from corank.training.run_publisher import RunManifest

if TYPE_CHECKING:
    from corank.training.run import Run


Files = str | list[str]


"""The files of a table: a path, a glob or a URL, or several."""


Tables = tuple[Files | None, Mapping[str, Files]]


"""Those of the table of users, and of the tables of events by name."""


@printed("{out}: {result:,} items")
def vectors(
    bundle: PathOrUrl,
    items: TableSource,
    out: PathOrUrl,
    progress: Progress = lambda done, total: None,
    workers: Annotated[int, Ge(1)] = 1,
    engine: str | None = None,
    report: Report = lambda line: None,
    parts: Annotated[Sequence[str], Option("--part")] = (),
) -> int:
    """Write the vectors of a table of items, or other item parts of a bundle, as Parquet or npy.

    Args:
        bundle: the bundle's folder, or its URL.
        items: the table: a frame, or a file, a glob or a URL, which need not fit into memory.
        out: the file to write, or its URL; `NAME.npy` for one part as an array, whose ids are `NAME.ids.npy`.
        progress: takes how many items are done, and of how many.
        workers: how many tasks run at a time. The file is the same for any number and any engine.
        engine: `in_line`, `pool`, `ray` (experimental) or a plug-in's; a pool of processes for several workers.
        report: receives a line about the memory held.
        parts: `STAGE.PART`, such as `rank.item`, the ranker's first-layer sums, each in a column `PART.STAGE`, rounded
            as the bundle stores it (default: the vectors of all stages).

    Returns the number of items. Raises BundleError, ConfigError, DataError, EngineError.

    Example:
        >>> corank.vectors("bundle", pl.read_parquet("shop/items.parquet"), "vectors.parquet")
        120
    """
    location = parse_location(out)
    if not isinstance(location, Path) and str(location).endswith(".npy"):
        raise ConfigError(f"{location}: arrays are written to this machine only; name a path, or a .parquet")
    beside = location.parent if isinstance(location, Path) else None
    with (
        temporary_frames(beside) as frames,
        open_engine(engine, workers) as opened,
        write_file(location) as path,
        show_progress("items", progress) as advance,
    ):
        table = frames.source("items", items)
        written = write_catalogue(parse_location(bundle), table, path, opened, advance, parts)
        report(describe_memory(opened))
    return written


@printed(
    "{out}: {result.requests:,} requests, {result.candidates:,} candidates, of which the bundle does not know "
    "{result.unknown:,}"
)
def predict(
    source: PathOrUrl,
    log: Annotated[TableSource, Option(parse=list, repeated=True)],
    out: PathOrUrl,
    users: TableSource | None = None,
    workers: Annotated[int, Ge(1)] = 1,
    engine: str | None = None,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
    events: Annotated[Mapping[str, TableSource] | None, EVENTS] = None,
    as_served: bool = False,
) -> PredictedLog:
    """Write what every stage computes of each candidate of a log: logits, probabilities, values.

    Args:
        source: the folder of a bundle or of a finished run, or its URL; a run is exported to a temporary bundle, and
            its packed data say what priors, ages and items were at the time of a row.
        log: the table of candidates: files, globs, URLs or a frame, with lists or a row a candidate. Histories are of
            the events in it; without a label's column, none has that label.
        out: a new or empty folder for the Parquet files.
        users: the table of users, if the bundle reads one; for a run, by default its config's.
        workers: how many tasks run at a time. The files are the same for any number and any engine.
        engine: `in_line`, `pool`, `ray` (experimental) or a plug-in's; a pool of processes for several workers.
        report: takes a line about a run's export, and one about the memory that was held.
        progress: takes how many candidates are done, and of how many.
        events: by name of `data.events`, the tables of the bundle's histories; for a run, by default its config's.
        as_served: whether all rows get the priors, ages and items that a service has now. Otherwise a bundle rejects
            rows older than its snapshots of priors, which count the labels of these rows.

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
        open_engine(engine, workers) as opened,
        show_progress("candidates", progress) as advance,
    ):
        tables = frames.source("log", log), frames.source("users", users), frames.sources(events)
        place = parse_location(source)
        prediction, _ = _predict(place, tables, folder, opened, advance, report, as_served=as_served)
        report(describe_memory(opened))
    return prediction


def score_rows(run: Location, rows: TableSource, progress: Progress) -> ScoredLog:
    """Score rows that need not be packed, as `predict` does, with what is needed to measure.

    Tables of users and of events are those of the run's config. Raises as `predict`.
    """
    with (
        TemporaryDirectory() as name,
        temporary_frames(Path(name)) as frames,
        open_engine() as engine,
    ):
        tables, scored = (frames.source("on", rows), None, dict[str, Files]()), Path(name) / "scored"
        _, manifest = _predict(run, tables, scored, engine, progress, facts=True)
        return ScoredLog.read(manifest, scored)


def _predict(
    source: Location,
    tables: tuple[Files, Files | None, Mapping[str, Files]],
    out: Path,
    engine: Engine,
    progress: Progress,
    report: Report = lambda line: None,
    as_served: bool = False,
    facts: bool = False,
) -> tuple[PredictedLog, BundleManifest]:
    """Predict tables of a log, of users and of events. Returns the counts, and the manifest of the bundle."""
    log, users, events = tables
    options: dict[str, Any] = {"as_served": as_served, "facts": facts}
    with _to_predict(source, out, report) as (bundle, run):
        if run is not None:
            users, events = _fill_in(run, bundle, users, events)
            options |= {"packed": None if as_served else partial(_open_packed, source), "base": run.base}
        counts = predict_log(bundle, log, users, out, engine, progress, events, **options)
        return counts, load_manifest(bundle)


@contextmanager
def _to_predict(source: Location, out: Path, report: Report) -> "Iterator[tuple[Location, Run | None]]":
    """A bundle as it is; of a run, which is opened, one that lasts as long as the block.

    That one lies next to `out`, where all workers can read.
    """
    if not _is_run(source):
        yield source, None
        return
    require("torch", "corank predict of a run")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        bundle = Path(folder) / "bundle"
        report(f"{source}: exporting it, for this command alone")
        export(str(source), bundle)
        yield bundle, _open_run(source)


def _fill_in(run: "Run", bundle: Location, users: Files | None, events: Mapping[str, Files]) -> Tables:
    """The given tables of users and events that a run's bundle reads, or else its config's.

    Raises DataError.
    """
    manifest, data = load_manifest(bundle), run.config.data
    if users is None and data.users is not None and list_user_columns(manifest):
        users = _find_files(data.users, run.base)
    absent = [name for name in list_event_tables(manifest) if name not in events]
    return users, {**events, **{name: _find_files(data.events[name].table, run.base) for name in absent}}


def _find_files(source: Files, base: Path) -> list[str]:
    return [file.path for file in find_source_files(source, base)]


def _open_packed(run: Location) -> PackedDataset:
    return _open_run(run).packed()


def _open_run(location: Location) -> "Run":
    from corank.training.run import Run

    return Run.open(location)


def _is_run(source: Location) -> bool:
    """Whether a run lies there; any other fault is reported when it is opened as a bundle."""
    if isinstance(source, Path):
        return (source / RUN_FILE).is_file()
    with suppress(StorageError):
        read_facts(source, RunManifest)
        return True
    return False

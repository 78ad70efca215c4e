"""`corank daily`: every period that is due, in order, from the live run's state to a live or a refused version.

It finds the end of the log without reading files that are older than the live run's rows, undoes a period that went
live, and checks that the store serves what the history takes as live.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from corank.analysis.html import write_page
from corank.api.config_source import OpenedConfig
from corank.bundle.manifest import ItemsAsOf
from corank.core.artifact import read_manifest
from corank.core.errors import ConfigError, DataError, StoreError
from corank.core.locks import WriteLock
from corank.core.objects import PathOrUrl, require_local
from corank.core.reports import Report
from corank.data.log_rows import scan_log
from corank.data.packed.manifest import InputFile, PackManifest
from corank.data.tables import SourceFile, find_source_files
from corank_continual.periods.daily_result import DailyResult
from corank_continual.periods.history import DailyHistory, PeriodRecord, find_live
from corank_continual.periods.joining import join_daily
from corank_continual.periods.settings import Period, due_periods, read_settings
from corank_continual.periods.setup import BUNDLE, RUN, DailySetup, PeriodSteps, remove_old
from corank_continual.periods.tracking import DailyTracking
from corank_serve.store.base import hide_password
from corank_serve.store.live_version import StoreState


def find_last_time(opened: OpenedConfig, live: PeriodRecord | None, packed: Path | None) -> int:
    """The time of the log's last candidate, ms UTC.

    Files that the live run's packed data list, and whose rows are all older than the end of its training, are not
    opened, and of others the parts whose statistics say so are not read, so that the cost does not grow with the days
    before.

    Args:
        opened: the config.
        live: the record of the live run.
        packed: its packed data.

    Raises DataError.
    """
    data, known = opened.settings.data, _read_known(packed)
    until = None if live is None else live.until
    files = find_source_files(data.log_files, opened.base)
    read = [file.path for file in files if until is None or not _is_old(file, opened.base, known, until)]
    # a log without its newest files ends before the live run's training does
    log = scan_log(data, opened.base, read or [file.path for file in files])
    newest = log.moment(data.time).max()
    later = [] if until is None else [log.frame.filter(log.since(data.time, until))]
    for frame in (*later, log.frame):
        if (last := log.collect(frame.select(newest)).item()) is not None:
            return int(last)
    raise DataError("data.log: the log is empty")


def _read_known(packed: Path | None) -> Mapping[str, InputFile]:
    """The files of the log that packed data list; none if the data were removed."""
    if packed is not None:
        with suppress(DataError):
            return read_manifest(packed, PackManifest).input_files.get("log", {})
    return {}


def _is_old(file: SourceFile, base: Path, known: Mapping[str, InputFile], until: int) -> bool:
    before = known.get(file.name(base))
    if before is None or before.version is None or before.version != file.version:
        return False
    return before.last is not None and before.last < until


def undo_period(setup: DailySetup, history: DailyHistory, name: str) -> None:
    """Go back to the live run before a period: in the store, if that serves what is undone, then in the history.

    Later periods are forgotten, and due again; the rows of this one train no model. If a call is killed in between,
    the next one does the rest.

    Args:
        setup: of the daily funnel.
        history: which is written.
        name: of the period.

    Raises DataError if the period did not go live, or there is nothing to go back to; StoreError.
    """
    records = history.without(name)
    live = find_live(records)
    assert live is not None
    packed = setup.packed_of(live.period)
    if packed is None or not packed.exists() or not (setup.of(live.period) / RUN).exists():
        raise DataError(
            f"{setup.of(live.period)}: the run of {live.period}, to which one would go back, is gone; `keep` of the "
            "settings says how many periods stay"
        )
    # those that are decided no more, and one that a killed call left
    known = {record.period for record in records}
    later = [folder for folder in setup.of(name).parent.iterdir() if folder.name not in known]
    undone = {record.model for record in records if record.decision == "undone"} | _exported_models(later)
    state = setup.read_store()
    if state is not None and _served_model(state) in undone:
        _roll_back(setup, state, live.period, live.version)
    history.write(records)
    for folder in later:
        shutil.rmtree(folder)
    setup.report(f"{name}: undone; {live.period} is live again")


def _roll_back(setup: DailySetup, state: StoreState, period: str, version: str | None) -> None:
    """Let the store serve the version of a period. Raises StoreError if it has it no more."""
    from corank_serve.api.stores import roll_back  # which loads ONNX Runtime

    assert setup.store is not None
    if version not in state.versions:
        raise StoreError(
            f"{hide_password(setup.store)}: has no version of {period} any more; publish {setup.of(period) / BUNDLE}, "
            "then try again"
        )
    roll_back(setup.store, version, setup.report)


def check_store(setup: DailySetup, history: DailyHistory, due: Iterable[Period]) -> None:
    """Check that the store serves the model of the history's live run, which the next period continues.

    A model that is of no period is reported: it was published by hand, and the next period replaces it, unless the
    version of the live period was rolled back.

    Args:
        setup: of the daily funnel.
        history: of it.
        due: periods, of which one may have been published by a call that was killed before it wrote the history.

    Raises StoreError if it serves that of another period, or one of no period after `corank store rollback`.
    """
    live = history.live
    state = None if live is None or live.version is None else setup.read_store()
    if live is None or state is None:
        return
    served, store = _served_model(state), hide_password(str(setup.store))
    if served in {live.model, *_exported_models(setup.of(period.name) for period in due)}:
        return
    were_live = (record for record in history.records if record.decision in ("live", "undone"))
    which = next((record for record in were_live if record.model == served), None)
    facts = state.versions.get(live.version or "")
    if which is not None:
        later = (r for r in history.records if r.begin > which.begin and r.decision == "live")
        undo = which if which.decision == "undone" else next(later)
        what, remedy = f"the model of {which.period}", f"`--undo {undo.period}` goes back in both"
    elif served is not None and facts is not None and facts.withdrawn:
        what = f"model {served}, which is of no period, since {live.period} was rolled back"
        remedy = f"`--undo {live.period}` goes back in the history, too"
    else:
        what = "no version is live" if served is None else f"serves model {served}, which is of no period"
        setup.report(f"{store}: {what}; candidates go on from {live.period} and are compared with it")
        return
    raise StoreError(
        f"{store}: serves {what}, and {live.period} is live in {history.path}; {remedy}, or make {live.period} live "
        f"again by `corank store promote {store} {live.version}`"
    )


def _exported_models(folders: Iterable[Path]) -> set[str]:
    """The model versions that were exported in folders of periods."""
    return {done["model"] for folder in folders if (done := PeriodSteps(folder).find("export"))}


def _served_model(state: StoreState) -> str | None:
    """The model version that a store serves; None if nothing is live."""
    return None if state.live is None else state.versions[state.live].model_version


def daily(
    config: PathOrUrl,
    accept: Sequence[str] = (),
    skip: Sequence[str] = (),
    retry: Sequence[str] = (),
    report: Report = lambda line: None,
    items_as_of: str | None = None,
    undo: str | None = None,
) -> DailyResult:
    """Train every period that is due on the rows since, and publish candidates that pass the gate.

    The log is joined with events first if the settings say how. For each period in order: its tables are validated
    against the live run, the live run is judged on its rows, a
    candidate continues from the live run's weights, is compared with it and gated, exported, verified on logged
    requests and published. Killed at any moment, the next call continues; called again with nothing due, it changes
    nothing. A period whose tables are rejected is tried again by the next call, before any later one.

    Args:
        config: the YAML file of `DailySettings`, next to the config that it names.
        accept: periods, such as `2026-04-27`, whose tables are used even if validation rejects them.
        skip: periods, also refused ones, that are not trained; the next one's rows begin after them.
        retry: refused, skipped or undone periods to try again.
        report: receives a line about each step.
        items_as_of: what the table of items contains, as for `export`, such as the store's change `42` before it was
            written. Items that were put in until then and are not in the table leave the store.
        undo: a period that went live: the one before it is live again, in the store, too. Its rows train no model,
            and later periods are trained again.

    Returns the records of all periods; `refused` says whether the newest one is not live. Raises ConfigError,
    MissingExtraError, DataError, CheckpointError, StoreError, and BusyError if another process runs it in the same
    folder.

    Example:
        >>> gate = "['rank.exposed.click.auc >= live - 0.5']"
        >>> text = f"{{config: config.yaml, first: 2026-03-10, verify: 2, gate: {gate}}}"
        >>> _ = Path("shop/daily.yaml").write_text(text)
        >>> [record.decision for record in corank.daily("shop/daily.yaml").records]
        ['live']
    """
    setup = _read_setup(path := require_local(config), report, items_as_of)
    settings = setup.settings
    tracking = DailyTracking(setup.folder, settings, report)
    with _lock(setup.folder):
        history = DailyHistory(setup.folder)
        if undo is not None:
            undo_period(setup, history, undo)
        _forget(setup, history, [*retry, *(name for name in skip if history.find(name) is not None)])
        joined = join_daily(setup)
        periods = _find_due(setup, history, None if joined is None else joined.as_of)
        _refuse_unknown([*accept, *skip], periods)
        check_store(setup, history, periods)
        for period in periods:
            record = _take(setup, period, history, accept, skip)
            _keep(setup, record, history)
            tracking.write(history.records)
            if record.decision == "refused by validation":
                break
        tracking.write(history.records)  # of a call that was killed, too
        result = DailyResult(setup.folder, history.records, settings.gate, joined)
        if _is_older(result.page, history.path, path):
            write_page(result.view(), result.page)
        return result


def _read_setup(path: Path, report: Report, items_as_of: str | None) -> DailySetup:
    """Read the settings and the config that they name. Raises ConfigError, DataError."""
    settings = read_settings(path)
    opened = OpenedConfig.open(path.parent / settings.config)
    as_of = None if items_as_of is None else ItemsAsOf.parse(items_as_of, opened.settings.data)
    return DailySetup(settings, path.parent, opened, report, as_of)


def _forget(setup: DailySetup, history: DailyHistory, names: Sequence[str]) -> None:
    """Let periods that are not live be due again. Raises DataError."""
    for name in names:
        history.remove(name)
        shutil.rmtree(setup.of(name), ignore_errors=True)  # else what its steps found would be read again


def _keep(setup: DailySetup, record: PeriodRecord, history: DailyHistory) -> None:
    """Write down what was decided of a period, and report it."""
    history.add(record)
    remove_old(setup, history.records, setup.settings.keep)
    setup.report(f"{record.period}: {record.decision}")
    for reason in record.reasons:
        setup.report(f"  {reason}")


def _take(
    setup: DailySetup, period: Period, history: DailyHistory, accept: Sequence[str], skip: Sequence[str]
) -> PeriodRecord:
    """Decide on a period. Raises ConfigError if one that is live is to be skipped."""
    from corank_continual.periods.period_training import PeriodTraining  # which loads torch

    training = PeriodTraining(setup, period, history.records, period.name in accept)
    if period.name not in skip:
        return training.run()
    if training.is_published:
        raise ConfigError(f"period {period.name}: live in the store already, and cannot be skipped")
    return PeriodRecord(period=period.name, begin=period.begin, end=period.end, decision="skipped")


def _find_due(setup: DailySetup, history: DailyHistory, as_of: int | None) -> list[Period]:
    """The periods that are due and of which nothing is decided, or whose tables were refused.

    Args:
        setup: of the daily funnel.
        history: of it.
        as_of: until when events are known, ms UTC; None: until now.
    """
    settings, data = setup.settings, setup.opened.settings.data
    first = round(data.instant(settings.first).timestamp() * 1000)
    live = history.live
    packed = None if live is None else setup.packed_of(live.period)
    last = find_last_time(setup.opened, live, packed)
    periods = due_periods(first, last, settings.period, data.timezone, settings.wait, as_of)
    decided = {r.period for r in history.records if r.decision != "refused by validation"}
    return [period for period in periods if period.name not in decided]


def _refuse_unknown(names: Sequence[str], periods: Sequence[Period]) -> None:
    for name in names:
        if name not in {period.name for period in periods}:
            due = ", ".join(period.name for period in periods) or "none"
            raise ConfigError(f"period {name}: not due, or decided already; due are {due}")


def _is_older(page: Path, *sources: Path) -> bool:
    """Whether a page is missing, or older than a file that it is made of."""
    times = [path.stat().st_mtime_ns for path in sources if path.exists()]
    return not page.exists() or page.stat().st_mtime_ns < max(times)


def _lock(folder: Path) -> WriteLock:
    """Take the lock of a daily funnel. Raises BusyError, DataError if the folder cannot be written."""
    try:
        return WriteLock(folder, "daily")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error}; name another with `folder`") from None

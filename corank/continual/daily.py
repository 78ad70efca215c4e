"""`corank daily`: every period that is due, in order, from the live run's state to a live or a refused version."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from corank.api.config_source import OpenedConfig
from corank.bundle.items_as_of import ItemsAsOf
from corank.continual.daily_page import write_page
from corank.continual.daily_result import DailyResult
from corank.continual.history import DailyHistory, PeriodRecord
from corank.continual.log_end import find_last_time
from corank.continual.periods import Period, due_periods
from corank.continual.settings import read_settings
from corank.continual.setup import DailySetup, remove_old
from corank.continual.tracking import DailyTracking
from corank.continual.undo import check_store, undo_period
from corank.core.errors import ConfigError, DataError
from corank.core.locks import WriteLock
from corank.core.storage.object_url import PathOrUrl, require_local
from corank.core.types import Report


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

    For each period in order: its tables are validated against the live run, the live run is judged on its rows, a
    candidate continues from the live run's weights, is compared with it and gated, exported, verified on logged
    requests and published. Killed at any moment, the next call continues; called again with nothing due, it changes
    nothing. A period whose tables are refused is tried again by the next call, and no later one before it.

    Args:
        config: the YAML file of `DailySettings`, next to the config that it names.
        accept: periods, such as `2026-04-27`, whose tables are used even if validation refuses them.
        skip: periods that are not trained, also such that were refused; the next one's rows begin after them.
        retry: periods that were refused, skipped or undone, and are tried again.
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
        periods = _find_due(setup, history)
        _refuse_unknown([*accept, *skip], periods)
        check_store(setup, history, periods)
        for period in periods:
            record = _take(setup, period, history, accept, skip)
            _keep(setup, record, history)
            tracking.write(history.records)
            if record.decision == "refused by validation":
                break
        tracking.write(history.records)  # of a call that was killed, too
        result = DailyResult(setup.folder, history.records, settings.gate)
        if _is_older(result.page, history.path, path):
            write_page(result.folder, result.records, result.gate)
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
    from corank.continual.period_training import PeriodTraining  # which loads torch

    training = PeriodTraining(setup, period, history.records, period.name in accept)
    if period.name not in skip:
        return training.run()
    if training.is_published:
        raise ConfigError(f"period {period.name}: live in the store already, and cannot be skipped")
    return PeriodRecord(period=period.name, begin=period.begin, end=period.end, decision="skipped")


def _find_due(setup: DailySetup, history: DailyHistory) -> list[Period]:
    """The periods that are due and of which nothing is decided, or whose tables were refused."""
    settings, data = setup.settings, setup.opened.settings.data
    first = round(data.instant(settings.first).timestamp() * 1000)
    live = history.live
    packed = None if live is None else setup.packed_of(live.period)
    last = find_last_time(setup.opened, live, packed)
    periods = due_periods(first, last, settings.period, data.timezone, settings.delay)
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
        return WriteLock.of_folder(folder, "daily")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error}; name another with `folder`") from None

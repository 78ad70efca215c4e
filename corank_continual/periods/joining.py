"""The join of a daily funnel: its log is joined with events first, and a period waits until its labels are known."""

from pathlib import Path

from corank.core.errors import ConfigError
from corank.core.machine_errors import name_write_errors
from corank.core.objects import is_url
from corank.core.settings import format_duration
from corank.data.join import JoinReport, join_log
from corank.data.joined_labels import LABELS_AS_OF, JoinSettings, data_columns
from corank.features.log_schema import DataSettings
from corank_continual.periods.setup import DailySetup


def join_daily(setup: DailySetup) -> JoinReport | None:
    """Join the log with what came since; None if the settings have no join.

    Raises ConfigError if the config does not read what is joined, DataError, BusyError.
    """
    settings, data = setup.settings.join, setup.opened.settings.data
    if settings is None:
        return None
    _check(settings, data)
    out = setup.opened.base / Path(str(data.log)).parent
    with name_write_errors(out):
        return join_log(settings, data_columns(data), setup.base, out, None, setup.report)


def _check(settings: JoinSettings, data: DataSettings) -> None:
    """Raise ConfigError unless the config reads what the join writes."""
    path = data.log if isinstance(data.log, str) else ""
    if not path.endswith("/*.parquet") or is_url(path) or "*" in path[:-9]:
        raise ConfigError(
            f"data.log: with `join` write FOLDER/*.parquet, where it is joined to; received {data.log}"
        )
    if data.as_of != LABELS_AS_OF:
        raise ConfigError(f"data.as_of: with `join` write {LABELS_AS_OF}, the column that it writes")
    for column in settings.labels:
        labels = {name: label for name, label in data.labels.items() if label.column == column}
        if not labels:
            raise ConfigError(
                f"join.labels.{column}: no label of the config has this column; add one, or leave it out"
            )
        window = settings.window_of(column)
        for name, label in labels.items():
            if label.matures_after != window:
                raise ConfigError(
                    f"data.labels.{name}.matures_after: write {format_duration(window)}, as its events may come so late"
                )

"""A log and what users did after it → the log that trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import polars as pl

from corank.api.config_source import OpenedConfig
from corank.api.results import DocumentResult
from corank.core.errors import ConfigError
from corank.core.machine_errors import name_write_errors
from corank.core.objects import PathOrUrl, require_local
from corank.core.options import Option
from corank.core.reports import Report
from corank.core.settings import validate
from corank.core.time import moment_to_ms
from corank.core.view import Section, Table, View
from corank.data.file_columns import ServedColumns
from corank.data.join import JoinReport, join_log
from corank.data.joined_labels import JoinColumns, JoinedLabel, JoinSettings, data_columns
from corank.data.tables import find_source_files


@dataclass(frozen=True, eq=False, repr=False)
class JoinResult(DocumentResult):
    """What a join wrote, the labels of the days that it joined, and the rows that wait for theirs.

    Example:
        >>> joined = corank.join("shop/log/*.parquet", "joined", ["later=shop/organic/*.parquet:order"])
        >>> joined["waiting"], joined.tables["labels"].columns
        (0, ['label', 'events', 'ones', 'zeros'])
    """

    waits: str = ""
    """How many rows wait for labels, in words; blank if none does."""

    @classmethod
    def of(cls, joined: JoinReport) -> "JoinResult":
        """Show what a join did."""
        return cls(msgspec.to_builtins(joined), joined.describe_waiting())

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`labels`: of each label the events that were read, and the candidates with a 1 and a 0."""
        return {"labels": pl.DataFrame([{"label": name, **count} for name, count in self["labels"].items()])}

    @property
    def headline(self) -> str:
        """Which days changed, and how many rows wait until when."""
        days = self["written"]
        what = f"{len(days)} days written, {days[0]} to {days[-1]}" if days else "nothing changed"
        return "; ".join(filter(None, [what, self.waits]))

    def view(self) -> View:
        """Labels of the days that were joined."""
        rows = [[name, *(f"{n:,}" for n in count.values())] for name, count in self["labels"].items()]
        table = Table(("label", "events", "ones", "zeros"), rows)
        return View("Join", self.headline, [Section("", [table])] if self["joined"] else [])


def join(
    log: str | list[str],
    out: Annotated[PathOrUrl, Option("--out")],
    label: Sequence[str] = (),
    of_request: Sequence[str] = (),
    exposed: str | None = None,
    window: str = "3d",
    credit: str = "all",
    skew: str = "0s",
    as_of: str | None = None,
    config: PathOrUrl | None = None,
    report: Report = lambda line: None,
) -> JoinResult:
    """Join a log with what users did after its requests: a Parquet file a day, with labels, to train on.

    A label is 1 if there is such an event within the window after the request, 0 if the window is over without one, and
    missing until then. Call it again with more files: it writes the days that they touch, and no other.

    Args:
        log: files with a row per candidate, such as the log of `corank serve --log`.
        out: folder of the log that is written, and of `join.json`, which says of what.
        label: `LABEL=FILES:KIND`: events of the user with the item, by whatever path; without `:KIND` all events, else
            the ones of that `kind`.
        of_request: `LABEL=FILES:KIND`: events that name the request, by the columns of its key, and the item.
        exposed: `FILES:KIND`: such events that say what was shown; it gets the deepest level.
        window: how long after the request an event counts.
        credit: of several requests within the window before an event of a `label`, which it counts for: first, last or
            all.
        skew: by how much clocks differ at most; an event so much before the request counts, too.
        as_of: until when there are events, such as 2026-03-14 (default: the last one of each table).
        config: a config that names the columns of the log, which events share; unless given they are `user_id`,
            `item_id`, `time`, `request_id` and `level`, or the served log's and `served_id`.
        report: receives a line for what does not count, or stays unchanged.

    Returns which days changed, counts of labels, and how many rows wait. Raises ConfigError, DataError for files that
    cannot be joined, BusyError if another process joins into the folder; then nothing changes.

    Example:
        >>> corank.join("shop/log/*.parquet", "by_day", ["later=shop/organic/*.parquet:order"]).headline[:15]
        '10 days written'
    """
    labels: dict[str, JoinedLabel] = {}
    for text in (*label, *of_request):
        name, equals, files = text.partition("=")
        if not (name and equals and files) or name in labels:
            raise ConfigError(f"expected LABEL=FILES:KIND, each label once; received {text!r}")
        labels[name] = JoinedLabel.model_validate(files).model_copy(update={"of_request": text in of_request})
    if not labels:
        raise ConfigError("name a label, such as --label later=orders/*.parquet:order")
    values = {
        "log": log,
        "labels": labels,
        "exposed": exposed,
        "window": window,
        "credit": credit,
        "skew": skew,
    }
    settings, base = validate(JoinSettings, values, "join"), Path.cwd()
    columns = (
        _served_columns(settings, base)
        if config is None
        else data_columns(OpenedConfig.open(config).settings.data)
    )
    try:
        until = None if as_of is None else moment_to_ms(as_of)
    except ValueError:
        raise ConfigError(
            f"--as-of: expected a day or a time, such as 2026-03-14; received {as_of!r}"
        ) from None
    folder = require_local(out)
    with name_write_errors(folder):
        return JoinResult.of(join_log(settings, columns, base, folder, until, report))


def _served_columns(settings: JoinSettings, base: Path) -> JoinColumns:
    """The columns that a served log says; else the usual ones."""
    first = find_source_files(settings.log, base)[0].path
    served = ServedColumns.read(Path(first)) if first.endswith(".parquet") and Path(first).exists() else None
    if served is None:
        return JoinColumns()
    return JoinColumns(user=served.user, item=served.item, time=served.time, request=["served_id"])

"""The files of the log and of events, and the rows of each day in them: which are read, and which came late."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from corank.core.errors import DataError
from corank.core.time import NEVER
from corank.data.event_tables import EventColumns
from corank.data.packed.inputs import name_files
from corank.data.packed.manifest import InputFile, InputFiles
from corank.data.packing.earlier_pack import PackStart
from corank.data.packing.workspace import PackWorkspace
from corank.data.table_formats import find_format
from corank.data.tables import SourceFile, Table, scan_files
from corank.features.log_schema import DataSettings

UNKNOWN: dict[str, Any] = {"rows": 0, "first": None, "last": None, "days": {}, "known": {}}
"""The survey of a file whose times cannot be read."""


@dataclass(frozen=True)
class SurveyFile:
    """Counts the rows of a file, the task, by day. Reads its times alone."""

    table: Table
    time: pl.Expr
    """ms UTC."""
    timezone: str
    end: int
    """When training ends, ms UTC."""
    since: int
    """When the training of the earlier packing ended, ms UTC."""

    def __call__(self, path: str) -> dict[str, Any]:
        """Return `rows`, `first`, `last`, and by day the rows before `end` and before `since`.

        A file whose times cannot be read alone has none: it is read with the others, whose checks report why.
        """
        moment = pl.from_epoch("time", "ms").dt.replace_time_zone("UTC").dt.convert_time_zone(self.timezone)
        times = scan_files(self.table.format, [path], self.table.nulls).select(time=self.time)
        by_day = times.group_by(day=moment.dt.date()).agg(
            rows=pl.len(),
            first=pl.col("time").min(),
            last=pl.col("time").max(),
            days=(pl.col("time") < self.end).sum(),
            known=(pl.col("time") < self.since).sum(),
        )
        try:
            days = self.table.collect(by_day.sort("day"))
        except DataError:
            return UNKNOWN
        dated = days.drop_nulls("day").with_columns(pl.col("day").cast(pl.String))
        counts = {
            name: {day: rows for day, rows in dated.select("day", name).iter_rows() if rows}
            for name in ("days", "known")
        }
        return {
            "rows": days["rows"].sum(),
            "first": days["first"].min(),
            "last": days["last"].max(),
            **counts,
        }


def survey_files(
    workspace: PackWorkspace, data: DataSettings, base: Path, start: PackStart
) -> tuple[InputFiles, dict[str, list[str]]]:
    """Find the files of the log and of events, and which of them are read.

    Files that the earlier packing lists, and whose rows are all older than what is read, are not opened.

    Args:
        workspace: runs the tasks, and receives a line about rows that came late.
        data: the settings of the tables.
        base: the folder that the tables' paths are relative to.
        start: from when on tables are read.

    Returns:
        All files by table, and the paths to read, by table. Raises DataError, StorageError if a file is missing.
    """
    known = {} if start.earlier is None else start.earlier.manifest.input_files
    input_files: InputFiles = {}
    read: dict[str, list[str]] = {}
    tables = {"log": (data.log_files, data.time, start.log_from)}
    for name, events in data.events.items():
        column = EventColumns.of(events, data).time
        tables[f"events.{name}"] = (events.table, column, start.tables_from.get(name, NEVER))
    for name, (source, column, since) in tables.items():
        files = name_files(source, base)
        input_files[name] = _survey(workspace, data, start, name, column, files, known.get(name, {}))
        kept = [
            files[path].path
            for path, file in input_files[name].items()
            if since == NEVER or file.last is None or file.last >= since
        ]
        # of a table without later rows one file is read for the columns
        read[name] = kept or [list(files.values())[-1].path]
        for path, file in input_files[name].items():
            for day, rows in file.late.items():
                workspace.report(
                    f"{name}: {rows:,} rows of {day} in {path} came after that day was packed, and are left out; "
                    f"`--repack {day}` takes them in"
                )
    return input_files, read


def _survey(
    workspace: PackWorkspace,
    data: DataSettings,
    start: PackStart,
    name: str,
    column: str,
    files: Mapping[str, SourceFile],
    known: Mapping[str, InputFile],
) -> dict[str, InputFile]:
    """Count the rows of the files of a table by day; the earlier packing's counts of unopened files are kept."""
    opened = [path for path, file in files.items() if _is_open(file, known.get(path), start.since)]
    surveyed: Sequence[dict[str, Any]] = []
    if opened:
        paths = [files[path].path for path in opened]
        try:
            table = Table.scan(name, paths[:1], Path(), data.nulls)
            survey = SurveyFile(table, table.moment(column), data.timezone, data.training_end(), start.since)
            surveyed = workspace.run(f"files {name}", survey, paths)
        except DataError:  # reported when all files are opened
            surveyed = [UNKNOWN] * len(paths)
    input_files = {path: known[path].model_copy(update={"late": {}}) for path in files if path not in opened}
    # of a table of a lakehouse, whose rows are moved from file to file
    moved = _count_days(known[path] for path in known if path not in input_files)
    shared = moved if any(find_format(file.path) for file in files.values()) else None
    for path, result in zip(opened, surveyed, strict=True):
        before = _count_days([known[path]] if path in known else []) if shared is None else shared
        late = Counter(result["known"]) - before if start.earlier else Counter[str]()
        before -= Counter(result["known"])
        counts = {key: value for key, value in result.items() if key != "known"}
        input_files[path] = InputFile(version=files[path].version, late=dict(late), **counts)
    if start.earlier and shared:
        workspace.report(
            f"{name}: {shared.total():,} rows of {min(shared)} to {max(shared)} are gone from the table since that was "
            "packed; what was learnt and counted of them stays, until all is packed anew without --from"
        )
    return {path: input_files[path] for path in files}


def _count_days(files: Iterable[InputFile]) -> Counter[str]:
    """Count the rows of files by day, those before training ended."""
    return sum((Counter(file.days) for file in files), Counter())


def _is_open(file: SourceFile, known: InputFile | None, since: int) -> bool:
    """Whether a file must be opened: it is new, has changed, or has rows that the earlier packing does not hold."""
    if known is None or file.version is None or known.version != file.version:
        return True
    return known.last is None or known.last >= since

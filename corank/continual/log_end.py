"""The end of the log, without reading files that are older than the live run's rows."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from corank.api.config_source import OpenedConfig
from corank.continual.history import PeriodRecord
from corank.core.errors import DataError
from corank.core.storage.object_url import is_url
from corank.data.lists.list_log import scan_log
from corank.data.pack_manifest import InputFile, read_pack_manifest
from corank.data.source_files import SourceFile, find_source_files


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
    last = None
    if until is not None:
        last = log.collect(log.frame.filter(log.since(data.time, until)).select(newest)).item()
    if last is None:
        last = log.collect(log.frame.select(newest)).item()
    if last is None:
        raise DataError("data.log: the log is empty")
    return int(last)


def _read_known(packed: Path | None) -> Mapping[str, InputFile]:
    """The files of the log that packed data list; none if the data were removed."""
    if packed is not None:
        with suppress(DataError):
            return read_pack_manifest(packed).input_files.get("log", {})
    return {}


def _is_old(file: SourceFile, base: Path, known: Mapping[str, InputFile], until: int) -> bool:
    known_file = known.get(file.path if is_url(file.path) else os.path.relpath(file.path, base))
    same = known_file is not None and file.version is not None and known_file.version == file.version
    return same and known_file is not None and known_file.last is not None and known_file.last < until

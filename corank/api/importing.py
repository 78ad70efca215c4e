"""Importers as functions: every registered one is `corank.import_NAME`, and the command `corank import NAME`."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from corank.api.frames import Frame, is_frame, temporary_frames
from corank.api.results import Result
from corank.core.machine_errors import name_write_errors
from corank.core.objects import PathOrUrl, require_local
from corank.core.reports import Report
from corank.core.settings import validate
from corank.datasets.importer import IMPORTERS, Importer
from corank.datasets.lists import Lists

LogSource = PathOrUrl | Frame
"""A log or a table: a file or a folder of this machine, or a frame in memory."""
Names = str | Sequence[str]
"""Names of columns: several as a list, or in one text with commas."""

F = TypeVar("F", bound=Callable[..., "ImportResult"])


@dataclass(frozen=True, repr=False)
class ImportResult(Result):
    """The config and the tables that an importer wrote; printed, what it found and chose.

    Example:
        >>> log = pl.DataFrame({"shown": [[3, 5], [5, 8]] * 20, "clicked": [[0, 1], [1, 0]] * 20})
        >>> print(corank.import_lists(log, "tiny", candidates="shown", labels="clicked"))
        no --user: each request is its own, and nothing is known of what users did before
        no --time: the order of rows counts, with times a minute apart from 2000-01-01 on
        40 impressions, 80 candidates; split {valid: 0.1, test: 0.1}
        features: item_id
    """

    config: Path
    """The config, next to the tables."""
    said: tuple[str, ...]
    """What was found and chosen, a line each."""

    @property
    def lines(self) -> Sequence[str]:
        """What to do next."""
        return (f"next: corank train {self.config}",)

    def to_json(self) -> str:
        """The config's path and what was said, as JSON text."""
        return json.dumps({"config": str(self.config), "said": self.said}, indent=1)

    def __str__(self) -> str:
        return "\n".join(self.said)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config})"


def _describe_options(importer: type[Importer]) -> str:
    """The fields of an importer, as arguments of a docstring."""
    fields = importer.model_fields.items()
    return "".join(f"    {name}: {field.description or ''}\n" for name, field in fields)


def _with_options(importer: type[Importer]) -> Callable[[F], F]:
    """A decorator that describes the options of an importer among a function's arguments, before `report`."""

    def describe(function: F) -> F:
        doc = inspect.getdoc(function) or ""
        function.__doc__ = doc.replace("    report: ", f"{_describe_options(importer)}    report: ")
        return function

    return describe


@_with_options(Lists)
def import_lists(
    source: LogSource,
    out: PathOrUrl,
    candidates: str,
    labels: Names = "",
    user: str = "",
    time: str = "",
    chosen: Names = "",
    along: Names = "",
    request: Names = "",
    history: str = "",
    history_times: str = "",
    position: str = "auto",
    items: LogSource | None = None,
    item: str = "",
    users: LogSource | None = None,
    nulls: Names = "",
    report: Report = lambda line: None,
) -> ImportResult:
    """Import a log of your own: a row an impression with a list of candidates, or a row an exposure.

    Tables may be files of Parquet or CSV, or frames of polars, pandas or Arrow; names of columns may be lists.

    Args:
        source: the log: a file, a folder of files, or a frame.
        out: folder for the tables and the config; it is not there or empty.
        report: takes a line about each step.

    Returns the config that was written. Raises DataError, which names file, column and row, if the log cannot be
    imported.

    Example:
        >>> shown = pl.read_parquet("shop/log/*.parquet").filter(level="exposed")
        >>> rows = shown.select("request_id", "user_id", "time", "device", "item_id", "is_click")
        >>> imported = corank.import_lists(
        ...     rows, "imported", candidates="item_id", labels="is_click", request="request_id",
        ...     user="user_id", time="time", items="shop/items.parquet")
        >>> imported.said[0]
        "7,200 exposures are 1,200 requests by 'request_id', 6.0 each"
        >>> corank.check(imported.config).rows["log"]
        7200
    """
    options = {name: value for name, value in locals().items() if name not in ("source", "out", "report")}
    return _run("lists", source, out, report, options)


def import_kuairand(source: PathOrUrl, out: PathOrUrl, report: Report = lambda line: None) -> ImportResult:
    """Import KuaiRand-Pure in its official layout, whole or in part.

    Args:
        source: where the release's CSV files are.
        out: folder for the tables and the config; it is not there or empty.
        report: takes a line about each step.

    Returns the config that was written. Raises DataError, which names file, column and row, if a file does not fit.

    Example:
        >>> corank.import_kuairand("KuaiRand-Pure", "videos")
        Traceback (most recent call last):
        corank.core.errors.DataError: KuaiRand-Pure: no such folder; expected KuaiRand-Pure, unpacked
    """
    return _run("kuairand", source, out, report, {})


def import_function(name: str) -> Callable[..., ImportResult]:
    """Make the function of a registered importer; its command is made of it. Raises PluginError for an unknown one."""
    importer = IMPORTERS.find(name)

    def run(
        source: LogSource,
        out: PathOrUrl,
        report: Report = lambda line: None,
        **options: Annotated[Any, importer],
    ) -> ImportResult:
        return _run(name, source, out, report, options)

    run.__name__ = run.__qualname__ = f"import_{name}"
    run.__doc__ = (
        f"{inspect.getdoc(importer)}\n\nArgs:\n    source: {importer.source_help}\n"
        f"    out: Folder for the tables and the config.\n{_describe_options(importer)}"
    )
    return run


def _run(
    name: str, source: LogSource, out: PathOrUrl, report: Report, options: Mapping[str, Any]
) -> ImportResult:
    """Import by a registered importer. Frames are written as files for it."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        report(line)

    with temporary_frames() as frames, name_write_errors(folder := require_local(out)):
        given = {key: frames.write(key, v) if is_frame(v) else _join(v) for key, v in options.items()}
        importer = validate(IMPORTERS.find(name), given, f"import {name}")
        importer.write(require_local(frames.source("source", source)), folder, say)
    return ImportResult(folder / "config.yaml", tuple(said))


def _join(value: Any) -> Any:
    """Several names as one text, as the command line has them."""
    return ",".join(value) if isinstance(value, list | tuple) else value

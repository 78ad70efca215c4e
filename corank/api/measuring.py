"""The commands that measure a run, as functions on paths. Each raises a CorankError for a user's mistake."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import polars as pl
from annotated_types import Ge

from corank.analysis.html import write_page
from corank.api.progress import show_progress
from corank.api.results import ExplanationResult, Result, frame
from corank.core.errors import TrackingError
from corank.core.lazy import lazy
from corank.core.objects import Location, PathOrUrl, parse_location, require_local
from corank.core.options import PYTHON_ONLY, Option, printed
from corank.core.reports import Progress, Report
from corank.core.time import format_time
from corank.core.view import Cell, Section, Table, Verdict, View
from corank.evaluation.rows import named_values
from corank.training.checks.findings import describe_findings
from corank.training.config.config_file import flatten, plain
from corank.training.drift.report import DriftReport

if TYPE_CHECKING:
    from corank.training import run as runs
    from corank.training.run import Run
    from corank.training.tracking import tracker as tracking
    from corank.training.tracking.tracker import Tracker
else:
    runs = lazy("corank.training.run")
    tracking = lazy("corank.training.tracking.tracker")


@dataclass(frozen=True)
class ReportPage(Result):
    """A page that was written: self-contained HTML.

    Example:
        >>> page = corank.report("shop/runs/shop", "report.html")
        >>> page.location, "<svg" in page.html
        (PosixPath('report.html'), True)
    """

    location: Location
    """The file, or its URL."""

    html: str = field(repr=False)
    """The page's text."""
    figures: Location | None = None
    """The folder of its figures, or its URL, if any were written."""

    @property
    def lines(self) -> Sequence[str]:
        """Where page and figures lie."""
        figures = [] if self.figures is None else [f"figures: {self.figures}"]
        return [f"report: {self.location}", *figures]

    def to_json(self) -> str:
        """Where the page lies, as JSON text."""
        return json.dumps({"page": str(self.location)}, indent=1)

    def __str__(self) -> str:
        return str(self.location)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its styles stay there."""
        return f'<iframe srcdoc="{escape(self.html)}" width="100%" height="800" style="border: 0"></iframe>'


def report(
    run: PathOrUrl,
    out: PathOrUrl | None = None,
    split: str = "test",
    against: Annotated[PathOrUrl | None, Option("OTHER")] = None,
    figures: PathOrUrl | None = None,
    progress: Progress = lambda done, total: None,
) -> ReportPage:
    """Write the report of a run, or of two runs side by side: one self-contained HTML page.

    Args:
        run: the run's folder, or its URL.
        out: the page's file, or its URL; in the run's folder unless given: `report.html`, or
            `report-against-NAME.html`, after the other run's folder.
        split: `train`, `valid` or `test`.
        against: another run on the same candidates: the page adds paired differences with intervals.
        figures: a folder, or its URL, to which each figure is written as SVG and PNG, too.
        progress: takes how many requests are scored, and of how many, of each run.

    Returns the page, which a notebook shows. Raises CheckpointError, DataError, and CorankError if it cannot be
    written.

    Example:
        >>> corank.report("shop/runs/shop", "report.html").location
        PosixPath('report.html')
    """
    from corank.analysis.run_evaluation import evaluate_run
    from corank.analysis.run_report import pair_view, report_view

    location, name = parse_location(run), "report.html"
    with show_progress("requests", progress) as advance:
        if against is None:
            view = report_view(evaluate_run(runs.Run.open(location), split, progress=advance))
        else:
            other = runs.Run.open(parse_location(against))
            view = pair_view(runs.Run.open(location), other, split, advance)
            name = f"report-against-{other.folder.name}.html"
    page = location / name if out is None else parse_location(out)
    folder = None if figures is None else parse_location(figures)
    return ReportPage(page, write_page(view, page, folder), folder)


def explain(
    run: PathOrUrl,
    split: str = "valid",
    most: Annotated[int, PYTHON_ONLY, Ge(1)] = 20_000,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> ExplanationResult:
    """Measure the worth of each feature to each stage of a run.

    Args:
        run: the run's folder, or its URL.
        split: `train`, `valid` or `test`.
        most: the largest number of requests to measure on.
        report: takes a line about each step.
        progress: takes how many requests are scored, and of how many.

    Returns what `corank explain` prints. Raises CheckpointError, DataError.

    Example:
        >>> sorted(corank.explain("shop/runs/shop", most=50)["features"]["city"])
        ['kind', 'side']
    """
    from corank.analysis.importance import measure_importance

    opened = runs.Run.open(parse_location(run))
    with show_progress("requests", progress) as advance:
        return ExplanationResult(measure_importance(opened, split, most, report=report, progress=advance))


def request(
    run: PathOrUrl, number: Annotated[int, Ge(0)] = 0, split: str = "test", now: bool = False
) -> dict[str, Any]:
    """Write a logged request as a service receives it: raw columns, as known at its time, with `trace` set.

    Args:
        run: the run's folder, or its URL.
        number: which request of the split, from 0.
        split: `train`, `valid` or `test`.
        now: leave its time out, so that it counts as of now: a service rejects times far from its clock.

    Returns the document that `corank request` prints, which `rank` and `Funnel.rank` take. Raises CheckpointError,
    DataError.

    Example:
        >>> logged = corank.request("shop/runs/shop")
        >>> len(logged["candidates"]), sorted(logged)
        (30, ['candidates', 'context', 'time', 'trace', 'user'])
    """
    from corank.analysis.logged_request import logged_request

    logged = logged_request(runs.Run.open(parse_location(run)), split, number)
    if now:
        del logged["time"]
    return logged


_FIGURE = ("figure", "of", "reference", "now", "threshold", "verdict")


@dataclass(frozen=True, repr=False)
class DriftResult(DriftReport, Result):
    """New rows compared with a run's: figures with verdicts, and the reasons to reject the rows.

    Example:
        >>> changes = ["data.split={train: 2026-03-09..2026-03-10}"]
        >>> drift = corank.check("shop/config.yaml", changes, against="shop/runs/shop")
        >>> drift.accepted, sorted(drift.tables)
        (True, ['figures'])
    """

    everything: bool = False
    """Whether the command prints all reasons."""

    @classmethod
    def of(cls, found: DriftReport, everything: bool = False) -> Self:
        """The same figures, with a table and a notebook's view."""
        facts = {field.name: getattr(found, field.name) for field in fields(DriftReport)}
        return cls(**facts, everything=everything)

    @property
    def headline(self) -> str:
        """What was compared, and whether it is accepted."""
        until = "on" if self.end is None else f"to {format_time(self.end)}"
        verdict = f"refused, {len(self.broken)} of {len(self.figures)} figures" if self.broken else "accepted"
        return f"{self.name}, rows from {format_time(self.begin)} {until}, against {self.run}: {verdict}"

    @property
    def reasons(self) -> list[str]:
        """Why the rows are refused, a line each, and the remedy; none if accepted."""
        if self.accepted:
            return []
        errors = [finding for finding in self.findings if finding.severity == "error"]
        remedy = (
            "mend the tables; or, if the change is meant, set another threshold under `drift` in the config"
        )
        return [*describe_findings(errors, self.everything), f"refused: {remedy}"]

    def view(self) -> View:
        """Each figure of the run and of the new rows with its threshold and verdict."""
        rows: list[list[Cell]] = [
            [*figure.cells[:-1], Verdict(figure.verdict, -(figure.verdict == "broken"))]
            for figure in self.figures
        ]
        prose = ("reference", "now")  # what a column of the tables has, or why it is not compared
        figures = Table([*_FIGURE], rows, prose=prose, left=("of", "verdict"), keys=2)
        sections = [Section("Figures", [figures])]
        if shown := [finding for finding in self.findings if finding.severity != "error"]:
            sections.append(Section("Findings", describe_findings(shown, self.everything)))
        return View(f"{self.name}: new rows", self.headline, sections)

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`figures`: kind, name, what the run has, what the new rows have, threshold, verdict."""
        rows = (dict(zip(_FIGURE, figure.cells, strict=True)) for figure in self.figures)
        return {"figures": frame(rows, _FIGURE)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"


@printed("report: {result}")
def track(run: str | Path, trackers: Sequence[str], split: str = "test") -> Path:
    """Evaluate a run, and write figures with intervals, report and model version to its run in each tracker.

    A tracked training continues its run there; another one gets a run, with its hyper-parameters.

    Args:
        run: the folder of a finished run. Its `report.html` is rewritten.
        trackers: by name, such as `mlflow` or `wandb,project=shop`.
        split: `train`, `valid` or `test`.

    Returns where the report lies. Raises ConfigError, PluginError, MissingExtraError, CheckpointError, DataError,
    and TrackingError if a tracker takes no records.

    Example:
        >>> corank.track("shop/runs/shop", ["mlflow,uri=sqlite:///mlflow.db,experiment=shop"])
        PosixPath('shop/runs/shop/report.html')
    """
    from corank.analysis.run_evaluation import evaluate_run
    from corank.analysis.run_report import report_view
    from corank.training.model_version import model_version

    folder = require_local(run)
    opened = runs.Run.open(folder)
    named = tracking.read_trackers(trackers)
    evaluated = evaluate_run(opened, split)
    page = folder / "report.html"
    write_page(report_view(evaluated), page)
    weights = opened.stored_weights(evaluated.packed)
    version = model_version(opened.config, evaluated.packed, weights, evaluated.calibrators)
    figures = {f"{split}/{name}": value for name, value in named_values(evaluated.rows).items()}
    _write(named, opened, {"model_version": version, **figures}, page)
    return page


def _write(trackers: "Sequence[Tracker]", run: "Run", facts: Mapping[str, str | float], page: Path) -> None:
    """Write to all trackers, each in its own thread. Raises TrackingError if one of them took not all."""
    for tracker in trackers:
        tracker.begin(run.folder, flatten(plain(run.config)))
        tracker.record(partial(tracker.write_facts, facts))
        tracker.record(partial(tracker.write_file, page))
    failed = [tracker.module for tracker in trackers if tracker.end("finished")]
    if failed:
        lost = f"not written to {', '.join(failed)}, or not all"
        raise TrackingError(f"{run.folder}: {lost}; see above, and try again")

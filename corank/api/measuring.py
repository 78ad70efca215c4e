"""The commands that measure a run, as functions on paths. Each raises a CorankError for a user's mistake."""

from typing import Any

from corank.api.notebook.counting import show_progress
from corank.api.results.report_page import ReportPage
from corank.api.results.study_results import ExplanationResult
from corank.core.files import write_text
from corank.core.storage.local_copy import write_file
from corank.core.storage.object_url import PathOrUrl, parse_location
from corank.core.types import Progress, Report
from corank.training.run import Run


def report(
    run: PathOrUrl,
    out: PathOrUrl | None = None,
    split: str = "test",
    against: PathOrUrl | None = None,
    figures: PathOrUrl | None = None,
    progress: Progress = lambda done, total: None,
) -> ReportPage:
    """Write a run's report, one self-contained HTML page; or that of two runs side by side.

    Args:
        run: the run's folder, or its URL.
        out: the page's file, or its URL; in the run's folder unless given: `report.html`, or
            `report-against-NAME.html`, after the other run's folder.
        split: `train`, `valid` or `test`.
        against: another run on the same candidates: the page shows paired differences with intervals, and the figures
            of both.
        figures: a folder, or its URL, to which each figure is written as SVG and PNG, too.
        progress: takes how many requests are scored, and of how many, of each run.

    Returns the page, which a notebook shows. Raises CheckpointError, DataError, BundleError, RequestError, and
    CorankError if it cannot be written.

    Example:
        >>> corank.report("shop/runs/shop", "report.html").location
        PosixPath('report.html')
    """
    from corank.analysis.evaluated_run import evaluate_run
    from corank.analysis.html import write_drawings  # which loads matplotlib
    from corank.analysis.report.pair_page import pair_page
    from corank.analysis.report.run_page import report_page

    location, name = parse_location(run), "report.html"
    with show_progress("requests", progress) as advance:
        if against is None:
            html = report_page(evaluate_run(Run.open(location), split, progress=advance))
        else:
            other = Run.open(parse_location(against))
            html = pair_page(Run.open(location), other, split, advance)
            name = f"report-against-{other.folder.name}.html"
    page = location / name if out is None else parse_location(out)
    with write_file(page) as path:
        write_text(path, html)
    if figures is not None:
        write_drawings(html, parse_location(figures))
    return ReportPage(page, html)


def explain(
    run: PathOrUrl,
    split: str = "valid",
    most: int = 20_000,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> ExplanationResult:
    """Measure the worth of each feature to each stage of a run, and its online latency.

    Args:
        run: the run's folder, or its URL.
        split: `train`, `valid` or `test`.
        most: requests to measure on, at most.
        report: takes a line about each step.
        progress: takes how many requests are scored, and of how many.

    Returns what `corank explain` prints. Raises CheckpointError, DataError, BundleError,
    RequestError.

    Example:
        >>> sorted(corank.explain("shop/runs/shop", most=50)["features"]["city"]["stages"])
        ['prerank', 'rank']
    """
    from corank.analysis.importance import measure_importance

    opened = Run.open(parse_location(run))
    with show_progress("requests", progress) as advance:
        return ExplanationResult(measure_importance(opened, split, most, report=report, progress=advance))


def request(run: PathOrUrl, number: int = 0, split: str = "test") -> dict[str, Any]:
    """Make a logged request what a service receives: raw columns, as known at its time, with `trace` set.

    Args:
        run: the run's folder, or its URL.
        number: which request of the split, from 0.
        split: `train`, `valid` or `test`.

    Returns the document that `corank request` prints, which `rank` and `Funnel.rank` take. Raises CheckpointError,
    DataError.

    Example:
        >>> logged = corank.request("shop/runs/shop")
        >>> len(logged["candidates"]), sorted(logged)
        (30, ['candidates', 'context', 'time', 'trace', 'user'])
    """
    from corank.analysis.logged_request import logged_request

    return logged_request(Run.open(parse_location(run)), split, number)

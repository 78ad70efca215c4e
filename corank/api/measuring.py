"""The commands that measure a run, as functions on paths. Each raises a CorankError for a user's mistake."""

from typing import Any

from corank.core.files import write_text
from corank.core.storage.local_copy import write_file
from corank.core.storage.object_url import Location, PathOrUrl, parse_location
from corank.core.types import Report
from corank.training.run import Run


def report(run: PathOrUrl, out: PathOrUrl | None = None, split: str = "test") -> Location:
    """Write a run's report, one self-contained HTML page.

    Args:
        run: the run's folder, or its URL.
        out: the page's file, or its URL; `report.html` in the run's folder unless given.
        split: `train`, `valid` or `test`.

    Returns where the page lies. Raises CheckpointError, DataError, BundleError, RequestError, and CorankError if it
    cannot be written.

    Example:
        corank.report(Path("shop/runs/shop"), Path("report.html"))
    """
    from corank.analysis.evaluated_run import evaluate_run
    from corank.analysis.report import report_page  # which loads matplotlib

    location = parse_location(run)
    page = location / "report.html" if out is None else parse_location(out)
    text = report_page(evaluate_run(Run.open(location), split))
    with write_file(page) as path:
        write_text(path, text)
    return page


def explain(
    run: PathOrUrl, split: str = "valid", most: int = 20_000, report: Report = lambda line: None
) -> dict[str, Any]:
    """Measure what each feature is worth to each stage of a run, and what it takes online.

    Args:
        run: the run's folder, or its URL.
        split: `train`, `valid` or `test`.
        most: requests to measure on, at most.
        report: takes a line about each step.

    Returns the document that `corank explain --json` prints. Raises CheckpointError, DataError, BundleError,
    RequestError.

    Example:
        corank.explain(Path("shop/runs/shop"))["features"]["brand"]["stages"]["rank"]["auc"]["value"]
    """
    from corank.analysis.importance import measure_importance

    return measure_importance(Run.open(parse_location(run)), split, most, report=report)

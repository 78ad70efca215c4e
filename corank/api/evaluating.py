"""Runs evaluated and compared, as functions on paths. Each raises a CorankError for a user's mistake."""

from typing import Any

from corank.analysis.comparison import compare_runs
from corank.analysis.evaluated_run import evaluate_run
from corank.analysis.grouped import evaluate_groups, groups_page
from corank.core.errors import DataError
from corank.core.storage.local_copy import write_file
from corank.core.storage.object_url import PathOrUrl, parse_location
from corank.training.run import Run


def evaluate(
    run: PathOrUrl,
    split: str = "test",
    bootstrap: bool = True,
    reference: PathOrUrl | None = None,
    by: str | None = None,
    page: PathOrUrl | None = None,
) -> dict[str, Any]:
    """Evaluate the stages of a run, alone and as a cascade.

    Args:
        run: the run's folder, or its URL.
        split: `train`, `valid` or `test`.
        bootstrap: whether to compute 95 % intervals over users.
        reference: a run on the same packed data, trained without selection bias; adds the stages' bias regret.
        by: evaluate group by group: `day`, a feature with one code a row, or a column of the log.
        page: with `by`, the file or URL of an HTML page to write.

    Returns the document that `corank evaluate --json` prints. Raises CheckpointError, DataError.

    Example:
        corank.evaluate(Path("shop/runs/shop"))["stages"]["rank"]["exposed"]["click"]["auc"]
    """
    opened = Run.open(parse_location(run))
    if by is None:
        if page is not None:
            raise DataError("--page is of groups: give --by, too; `corank report` writes the page of a run")
        unbiased = None if reference is None else Run.open(parse_location(reference))
        return evaluate_run(opened, split, bootstrap, unbiased).document
    if reference is not None:
        raise DataError("--reference compares all candidates of a split; leave out --by")
    document = evaluate_groups(opened, split, by, bootstrap)
    if page is not None:
        _write(page, groups_page(document, f"{opened.config.name} by {by}"))
    return document


def compare(a: PathOrUrl, b: PathOrUrl, split: str = "test", page: PathOrUrl | None = None) -> dict[str, Any]:
    """Compare two runs on the same candidates: paired intervals over users, and a verdict for each metric.

    Args:
        a: a run's folder, or its URL.
        b: another run of the same log and split.
        split: `train`, `valid` or `test`.
        page: the file or URL of an HTML page to write.

    Returns the document that `corank compare --json` prints: values `a` and `b`, `difference`, `low`, `high` and a
    `verdict` on a, by stage, population, label and metric. Raises CheckpointError, DataError.

    Example:
        corank.compare(Path("runs/new"), Path("runs/old"))["stages"]["rank"]["exposed"]["click"]["auc"]["verdict"]
    """
    runs = [Run.open(parse_location(one)) for one in (a, b)]
    document = compare_runs(runs[0], runs[1], split)
    if page is not None:
        from corank.analysis.comparison_page import comparison_page

        _write(page, comparison_page(document))
    return document


def _write(page: PathOrUrl, content: str) -> None:
    """Write a page whole. Raises DataError if it cannot be written."""
    location = parse_location(page)
    try:
        with write_file(location) as path:
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{location}: cannot be written: {error}") from None

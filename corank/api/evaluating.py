"""Runs evaluated and compared, and versions that served, as functions on paths.

Each raises a CorankError for a user's mistake.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from corank.analysis.html import write_page
from corank.api.frames import TableSource, is_frame
from corank.api.progress import show_progress
from corank.api.results import ComparisonResult, EvaluationResult
from corank.core.errors import DataError
from corank.core.objects import Location, PathOrUrl, parse_location
from corank.core.options import EVENTS, PYTHON_ONLY, Option
from corank.core.reports import Progress
from corank.data.tables import TABLE_ENDINGS


def evaluate(
    run: PathOrUrl,
    split: str = "test",
    bootstrap: Annotated[bool, PYTHON_ONLY] = True,
    reference: PathOrUrl | None = None,
    by: str | None = None,
    page: PathOrUrl | None = None,
    progress: Progress = lambda done, total: None,
    on: TableSource | None = None,
) -> EvaluationResult:
    """Evaluate the stages of a run, alone and as a cascade.

    Args:
        run: the run's folder, or its URL.
        split: `train`, `valid` or `test`.
        bootstrap: whether to compute 95 % intervals over users.
        reference: a run on the same packed data, trained without selection bias; adds the stages' bias regret.
        by: evaluate group by group: `day`, a feature with one code a row, or a column of the log.
        page: with `by`, the file or URL of an HTML page to write.
        progress: takes how many requests are scored, and of how many.
        on: what to judge the run on (default: its own packed data). Packed data of other days or another packing, or a
            run that has them; values unknown to them count as unknown. Or rows with labels as they were imported or
            trained on: files, a glob, a URL of one, or a frame.

    Returns what `corank evaluate` prints. Raises CheckpointError, DataError.

    Example:
        >>> evaluation = corank.evaluate("shop/runs/shop")
        >>> evaluation.row("rank.exposed.click.auc")["value"] > 0.4
        True
        >>> evaluation.frame().columns[7:]
        ['value', 'low', 'high', 'n', 'better', 'random']
    """
    from corank.analysis.run_evaluation import evaluate_run
    from corank.api.predicting import score_rows
    from corank.training.run import Run, locate_packed

    if by is None and page is not None:
        raise DataError("--page needs --by; `corank report` writes the page of a run")
    if by is not None and reference is not None:
        raise DataError("--reference compares all candidates of a split; leave out --by")
    if by is not None and on is not None:
        raise DataError("--on judges all candidates of a split; leave out --by")
    place = parse_location(run)
    opened = Run.open(place)
    if on is not None and (rows := _rows_of(on)) is not None:
        if split != "test" or reference is not None:
            raise DataError(f"--on {_name_of(rows)}: rows have no split; leave out --split and --reference")
        with show_progress("candidates", progress) as advance:
            scored = score_rows(place, rows, advance)
        return EvaluationResult(scored.evaluate(str(place), _name_of(rows), bootstrap))
    unbiased = None if reference is None else Run.open(parse_location(reference))
    where = locate_packed(parse_location(on)) if isinstance(on, str | Path) else None
    with show_progress("requests", progress) as advance:
        evaluation = evaluate_run(opened, split, bootstrap, unbiased, advance, where, by)
        result = EvaluationResult(evaluation.document)
    if page is not None:
        write_page(replace(result.view(), title=f"{opened.config.name} by {by}"), parse_location(page))
    return result


def _rows_of(on: TableSource) -> TableSource | None:
    """Files or a frame of rows; None of packed data, or a run."""
    if not isinstance(on, str | Path):
        return on
    return on if str(on).endswith(TABLE_ENDINGS) else None


def _name_of(rows: TableSource) -> str:
    """The name of a table in messages and documents."""
    return "a frame" if is_frame(rows) else str(rows)


def compare(
    a: PathOrUrl,
    b: PathOrUrl,
    split: str | None = None,
    page: PathOrUrl | None = None,
    scores: Annotated[Sequence[str], Option("--score")] = (),
    labels: Annotated[Sequence[str], Option("--label")] = (),
    user: str | None = None,
    request: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    on: PathOrUrl | None = None,
    margin: Annotated[float | Mapping[str, float] | Sequence[str], Option(parse=list, repeated=True)] = 0.0,
    users: str | None = None,
    events: Annotated[Mapping[str, str] | None, EVENTS] = None,
) -> ComparisonResult:
    """Compare two runs, bundles, or tables of scores, on the same candidates: paired intervals over users, verdicts.

    Args:
        a: a run's folder, or its URL; a bundle's folder; or Parquet with scores, such as `corank.predict` wrote.
        b: another one. Runs of other days or packings are both judged on b's packed data. `trees`, if nothing has that
            name: a baseline trained on run a's packed data: boosted trees
            as the last stage, the others on labels alone. Needs the extra `trees`.
        split: of runs: `train`, `valid` or `test` (default).
        page: the file or URL of an HTML page to write.
        scores: columns of scores to compare (default: all common columns of floats).
        labels: columns of labels, 0, 1 or null (default: detected).
        user: the column of users; needed unless `corank.predict` wrote the scores.
        request: columns that distinguish requests, for metrics within requests.
        progress: takes how many requests of each run, or candidates of each bundle, are scored, and of how many; tables
            of scores need no scoring.
        on: of runs: the packed data to judge both on, or a run that has them; of bundles: the log, its files or a URL.
        margin: how large a difference must be to count: of all metrics, or by metric, such as `{"auc": 0.002}`.
        users: of bundles: the table of users, if one reads it.
        events: of bundles: by name of `data.events`, the tables of events.

    Returns what `corank compare` prints: rows with values `a` and `b`, `difference`, `low`, `high` and a `verdict` on
    a, by stage, label, population and metric. Raises CheckpointError, and DataError also if both are the same.

    Example:
        >>> less = corank.train("shop/config.yaml", ["name=less", "train.epochs=1"]).run
        >>> comparison = corank.compare(less.folder, "shop/runs/shop")
        >>> row = comparison.row("rank.exposed.click.auc")
        >>> row["low"] <= row["difference"] <= row["high"]
        True
    """
    place = None if on is None else str(on)
    columns = scores, labels, () if user is None else (user,), request
    tables = users, events or {}
    with show_progress("scored", progress) as advance:
        document = _compare(
            parse_location(a), parse_location(b), split, place, columns, tables, margin, advance
        )
    result = ComparisonResult(document)
    if page is not None:
        write_page(result.view(), parse_location(page))
    return result


def _compare(
    one: Location,
    other: Location,
    split: str | None,
    on: str | None,
    columns: tuple[Sequence[str], ...],
    tables: tuple[str | None, Mapping[str, str]],
    margin: float | Mapping[str, float] | Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    """Compare scores, bundles or runs, whichever they are. Raises DataError for an option of another sort."""
    from corank.analysis import comparison, score_comparison

    margins = comparison.Margins.read(_margins(margin))
    if _is_one(one, other):
        raise DataError(f"{one} and {other} are the same; name another to compare with")
    scored = score_comparison.two_tables(one, other)
    bundles = not scored and all(
        isinstance(x, Path) and (x / "manifest.json").is_file() for x in (one, other)
    )
    if not scored and any(columns):
        raise DataError(
            "--score, --label, --user and --request apply to tables of scores; leave them out for runs"
        )
    if not bundles and tables != (None, {}):
        raise DataError("--users and --events apply to bundles; leave them out")
    if scored:
        assert isinstance(one, Path) and isinstance(other, Path)
        if split is not None or on is not None:
            raise DataError("--split and --on apply to runs; scores are compared on all their rows")
        return score_comparison.compare_scores(one, other, score_comparison.ScoreChoice(*columns), margins)
    if bundles:
        if split is not None:
            raise DataError("--split applies to runs; bundles are compared on the log that --on names")
        if on is None:
            raise DataError(
                "bundles are compared on logged requests: name their table by --on, such as log/*.parquet"
            )
        from corank.analysis import bundle_comparison

        return bundle_comparison.compare_bundles(one, other, on, *tables, margins, progress)
    from corank.training.run import Run, locate_packed

    if str(other) == comparison.TREES and not Path(comparison.TREES).exists():
        if on is not None:
            raise DataError(
                "--on applies to two runs; trees are trained and judged on the packed data of the first"
            )
        from corank.analysis.experiments import tree_baseline

        return tree_baseline.compare_with_trees(Run.open(one), split or "test", progress, margins)
    where = None if on is None else locate_packed(parse_location(on))
    opened = Run.open(one), Run.open(other)
    return comparison.compare_runs(*opened, split or "test", progress, where, margins)


def _is_one(one: Location, other: Location) -> bool:
    """Whether two locations are the same, however they are spelled."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.exists() and other.exists() and one.samefile(other)
    return one == other


def _margins(margin: float | Mapping[str, float] | Sequence[str]) -> Iterable[str]:
    """A margin as the command line gives it."""
    if isinstance(margin, Mapping):
        return (f"{metric}={value}" for metric, value in margin.items())
    return [str(margin)] if isinstance(margin, int | float) else margin

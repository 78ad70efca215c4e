"""The commands that measure runs and studies, as functions on paths. Each raises a CorankError for a user's mistake."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from corank.analysis.study.findings import QUESTIONS
from corank.analysis.study.study import RATES, Budget, run_study
from corank.core.errors import CorankError
from corank.core.files import write_text
from corank.core.locks import WriteLock
from corank.core.storage.local_copy import write_file
from corank.core.storage.object_url import Location, PathOrUrl, parse_location
from corank.core.types import Report
from corank.training.config_file import read
from corank.training.preparation.packed_data import open_or_pack
from corank.training.run import Run
from corank.training.sufficiency import Sufficiency


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


def study(
    config: Path,
    out: Path | None = None,
    seeds: int = 3,
    questions: Iterable[int] = QUESTIONS,
    rates: Sequence[float] = RATES,
    overrides: Sequence[str] = (),
    report: Report = lambda line: None,
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """Answer eight questions about joint training on a config's log, by training variants of the config.

    Args:
        config: the YAML file.
        out: the study's folder; `studies/NAME` beside the config unless given. Variants that it holds from an
            interrupted study are not trained again.
        seeds: seeds a variant.
        questions: numbers of the questions.
        rates: factors on all learning rates, among which each variant's is chosen.
        overrides: `a.b=value` changes of the config.
        report: takes a line about each training.
        without: features to remove, as of `--without`.

    Returns the document that is also written to `study.json`, beside the page `study.html`. Raises ConfigError,
    DataError, BusyError if another process writes the study, and CorankError if the folder cannot be written.

    Example:
        corank.study(Path("shop/config.yaml"), seeds=2, questions=[1, 6])["questions"]["1"]["verdict"]
    """
    from corank.analysis.study.page import study_page  # which loads matplotlib

    settings = read(config, overrides, without, report)
    folder = out or config.parent / "studies" / settings.name
    try:
        lock = WriteLock.of_folder(folder, "study")
    except OSError as error:
        raise CorankError(f"{folder}: cannot be written: {error}; name another place with --out") from None
    with lock:
        packed = open_or_pack(settings, config.parent, report)
        Sufficiency.of(settings, packed).require()
        document = run_study(
            settings, packed, config.parent, folder, questions, Budget(seeds, tuple(rates)), report
        )
        write_text(folder / "study.html", study_page(document))
    return document


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

"""The command that studies a config, as a function on paths. It raises a CorankError for a user's mistake."""

from collections.abc import Iterable, Mapping, Sequence

from corank.analysis.study.findings import QUESTIONS
from corank.analysis.study.study import RATES, Budget, run_study
from corank.api.config_source import ConfigSource, OpenedConfig, local
from corank.api.frames import TableSource
from corank.api.notebook.counting import show_progress
from corank.api.results.study_results import StudyResult
from corank.core.errors import CorankError
from corank.core.files import write_text
from corank.core.locks import WriteLock
from corank.core.storage.object_url import PathOrUrl, parse_location
from corank.core.types import Progress, Report
from corank.training.data_check import TrainingDataCheck
from corank.training.preparation.packed_data import open_or_pack


def study(
    config: ConfigSource,
    out: PathOrUrl | None = None,
    seeds: int = 3,
    questions: Iterable[int] = QUESTIONS,
    rates: Sequence[float] = RATES,
    overrides: Sequence[str] = (),
    report: Report = lambda line: None,
    without: Sequence[str] = (),
    tables: Mapping[str, TableSource] | None = None,
    figures: PathOrUrl | None = None,
    progress: Progress = lambda done, total: None,
) -> StudyResult:
    """Answer nine questions about joint training on a config's log, by training variants of the config.

    Args:
        config: a YAML file, a mapping of the same keys, or `corank.Config`.
        out: the study's folder; `studies/NAME` next to the config unless given. Variants that it holds from an
            interrupted study are not trained again.
        seeds: seeds a variant.
        questions: numbers of the questions.
        rates: factors on all learning rates, among which each variant's is chosen.
        overrides: `a.b=value` changes of the config.
        report: takes a line about each training.
        without: features to remove, as in `--without`.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.
        figures: a folder, or its URL, to which each figure of the page is written as SVG and PNG, too.
        progress: takes how many trainings are done, and of how many.

    Returns the document that is also written to `study.json`, next to the page `study.html`. Raises ConfigError,
    DataError, BusyError if another process writes the study, and CorankError if the folder cannot be written.

    Example:
        >>> study = corank.study("shop/config.yaml", seeds=1, questions=[1], rates=[1])
        >>> study["questions"]["1"]["title"]
        'What is the architecture?'
    """
    from corank.analysis.html import write_drawings  # which loads matplotlib
    from corank.analysis.study.page import study_page

    opened_config = OpenedConfig.open(config, overrides, without, report, tables).with_moments()
    settings, base = opened_config.settings, opened_config.base
    folder = local(out) or base / "studies" / settings.name
    try:
        lock = WriteLock.of_folder(folder, "study")
    except OSError as error:
        raise CorankError(f"{folder}: cannot be written: {error}; name another place with --out") from None
    with lock, opened_config.frames.named(), show_progress("trainings", progress) as advance:
        packed = open_or_pack(settings, base, report)
        TrainingDataCheck.of(settings, packed).require()
        budget = Budget(seeds, tuple(rates))
        document = run_study(settings, packed, base, folder, questions, budget, report, advance)
        page = study_page(document)
        write_text(folder / "study.html", page)
    if figures is not None:
        write_drawings(page, parse_location(figures))
    return StudyResult(document)

"""The verbs of the command line, as functions on paths. Each raises a CorankError for a mistake of the user's."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from corank.analysis.evaluated_run import evaluate_run
from corank.analysis.importance import explain as explained
from corank.analysis.report import report as reported
from corank.analysis.study.findings import QUESTIONS
from corank.analysis.study.page import study_page
from corank.analysis.study.study import RATES, Budget
from corank.analysis.study.study import study as studied
from corank.bundle.incremental_log import RefreshSources
from corank.bundle.manifest import Bundle
from corank.bundle.refresh import refresh as refreshed
from corank.core.errors import CheckpointError
from corank.core.files import write_text
from corank.core.types import Report
from corank.data.dataset import PackedDataset
from corank.data.pack import pack as packed
from corank.serving.funnel.funnel import Funnel, Request
from corank.training.check import Checked, checked
from corank.training.config import Config
from corank.training.config_file import read
from corank.training.export import export as exported
from corank.training.run import Run, packed_folder, packed_of
from corank.training.train import Watcher
from corank.training.train import train as trained


def check(config: Path, overrides: Sequence[str] = ()) -> Checked:
    """Read a config and survey its tables, packing and training nothing. Raises ConfigError, DataError."""
    return checked(read(config, overrides), config.parent)


def pack(config: Path, overrides: Sequence[str] = (), report: Report = lambda line: None) -> PackedDataset:
    """Pack the logs of a config to `packed/<name>` beside it. Raises ConfigError, DataError."""
    settings = read(config, overrides)
    return packed(
        settings.data, settings.declared, config.parent, packed_folder(settings, config.parent), report
    )


def train(
    config: Path,
    watcher: Watcher,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    folder: Path | None = None,
    report: Report = lambda line: None,
) -> tuple[Run, dict[str, Any]]:
    """Train a config, in `runs/<name>` beside it unless `folder` is given, packing first where needed.

    Returns the run and the validation figures of the epoch that was kept. Raises ConfigError, DataError,
    CheckpointError.
    """
    settings = read(config, overrides)
    folder = folder or config.parent / "runs" / settings.name
    run = Run(folder, settings, config.parent)
    held = any(folder.glob("*.safetensors"))
    if held and not (resume or overwrite):
        raise CheckpointError(
            f"{folder}: holds a training; go on with --resume, or begin anew with --overwrite"
        )
    data = _packed(settings, config, overrides, report)
    if not (resume and (run.finished or run.latest.is_file())):
        run = Run.create(folder, settings, config.parent)
    return run, trained(run, data, watcher, resume)


def _packed(settings: Config, config: Path, overrides: Sequence[str], report: Report) -> PackedDataset:
    """The packing of a config, made where there is none; a stale one is refused by name."""
    if (packed_folder(settings, config.parent) / "manifest.json").exists():
        return packed_of(settings, config.parent)
    report("not packed yet: packing first")
    return pack(config, overrides, report)


def evaluate(
    run: Path, split: str = "test", bootstrap: bool = True, reference: Path | None = None
) -> dict[str, Any]:
    """Judge a run's stages on a split: the document of `corank evaluate --json`, intervals if `bootstrap`.

    With a `reference`, a run on the same packed data that was trained without selection bias, the stages' bias
    regret, too. Raises CheckpointError, DataError.
    """
    unbiased = None if reference is None else Run.open(reference)
    return evaluate_run(Run.open(run), split, bootstrap, unbiased).document


def report(run: Path, out: Path | None = None, split: str = "test") -> Path:
    """Write a run's report, one HTML page, to `report.html` in the run's folder unless `out` is given; its path.

    Raises CheckpointError, DataError, BundleError, RequestError, and CorankError where it cannot be written.
    """
    path = out or run / "report.html"
    write_text(path, reported(evaluate_run(Run.open(run), split)))
    return path


def study(
    config: Path,
    out: Path | None = None,
    seeds: int = 3,
    questions: Iterable[int] = QUESTIONS,
    rates: Sequence[float] = RATES,
    overrides: Sequence[str] = (),
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Answer a study's questions on a config's log, in `studies/<name>` beside it unless `out` is given.

    Writes `study.json`, which is returned, and the page `study.html`; what a study that was broken off has trained is
    used. Raises ConfigError, DataError, and CorankError where the folder cannot be written.
    """
    settings = read(config, overrides)
    folder = out or config.parent / "studies" / settings.name
    budget = Budget(seeds, tuple(rates))
    found = studied(
        settings,
        _packed(settings, config, overrides, report),
        config.parent,
        folder,
        questions,
        budget,
        report,
    )
    write_text(folder / "study.html", study_page(found))
    return found


def explain(
    run: Path, split: str = "valid", most: int = 20_000, report: Report = lambda line: None
) -> dict[str, Any]:
    """What each feature is worth to each stage of a run, and what it costs online, by at `most` so many requests.

    Raises CheckpointError, DataError, BundleError, RequestError.
    """
    return explained(Run.open(run), split, most, report=report)


def export(run: Path, bundle: Path) -> Bundle:
    """Write a run's bundle. Raises CheckpointError, DataError, BundleError."""
    opened = Run.open(run)
    data = opened.packed()
    model, calibrators = opened.model(data)
    return exported(bundle, opened.config, data, model, calibrators)


def refresh(
    bundle: Path,
    log: str,
    items: str | None = None,
    users: str | None = None,
    until: str | None = None,
    report: Report = lambda line: None,
) -> Bundle:
    """Bring a bundle's priors, item records and vectors forward by a newer log, and newer `items` if given.

    `until`: a day or a time, in the config's time zone, until which the log is complete. Raises BundleError, DataError.
    """
    moment = None if until is None else Bundle.open(bundle).manifest.data.milliseconds(until)
    return refreshed(bundle, RefreshSources(log, items, users, until=moment), report)


def rank(bundle: Path, request: Path) -> dict[str, Any]:
    """Rank the candidates of a REQUEST.json. Raises BundleError, RequestError."""
    return Funnel.open(bundle).rank(Request.read(request))

"""The commands that search for better settings, as functions on paths.

Each raises a CorankError for a user's mistake.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from corank.analysis.experiments.space import (
    Grid,
    build_file,
    read_grid,
    read_space,
    require_page_metric,
)
from corank.analysis.experiments.views import experiment_view
from corank.analysis.html import write_page
from corank.api.config_source import ConfigSource, OpenedConfig, local
from corank.api.frames import TableSource
from corank.api.results import ExperimentResult
from corank.core.errors import ConfigError, CorankError
from corank.core.lazy import lazy
from corank.core.locks import WriteLock
from corank.core.objects import PathOrUrl, require_local
from corank.core.options import FACTORS, Option, Overrides
from corank.core.reports import Report
from corank.training.checks.findings import refuse_errors, report_findings
from corank.training.checks.judgements import judge
from corank.training.checks.log_profile import profile_training
from corank.training.config.config import Config, with_moments
from corank.training.config.config_file import read
from corank.training.packed_data import open_or_pack

if TYPE_CHECKING:
    from corank.analysis.experiments import engine, latency_budget
    from corank.analysis.experiments import figures as objectives
    from corank.analysis.experiments import search as searches
    from corank.analysis.experiments import tune as tunings
    from corank.analysis.experiments.engine import TrialData
    from corank.analysis.experiments.space import Space
else:
    engine = lazy("corank.analysis.experiments.engine")
    objectives = lazy("corank.analysis.experiments.figures")
    latency_budget = lazy("corank.analysis.experiments.latency_budget")
    searches = lazy("corank.analysis.experiments.search")
    tunings = lazy("corank.analysis.experiments.tune")


FOLDERS = {"experiment": "experiments", "tune": "tunings"}
"""By kind, the folder next to the config that has a folder for each."""
TRIALS = 30
"""Trials of a tuning, the config as written among them."""


def experiment(
    config: ConfigSource,
    arms: PathOrUrl,
    out: PathOrUrl | None = None,
    seeds: Annotated[int, Ge(1)] = 3,
    rates: Annotated[Sequence[float], FACTORS] = (1.0,),
    metric: str | None = None,
    overrides: Overrides = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
) -> ExperimentResult:
    """Compare the arms of a YAML file with the config as written, on the validation split.

    The file has a name for each arm, and what it changes:

        arms:
          narrow ranker: {set: {stages.1.hidden: [64, 32], train.rank.lr: 0.002}}
          clicks alone: {change: clicks_alone}
          own tables, twice as wide: {change: [own_tables, {scale_widths: 2}]}
          in-batch negatives, too: {more_losses: [{kind: in_batch, stage: $first}]}

    `set` has keys of the config; `losses` replace the config's, `more_losses` add to them; `change` names
    changes that keys cannot express. An arm's losses are set first, then `change` is made in order, then `set`.

    Names that begin with $ stand for what the config has: `$first` and `$last` for the names of the first and the last
    stage, `$first_model` and `$last_model` for their models, `$label` for the first stage's main label, `$levels` for
    all levels, `$cut` for the levels that the first stage cuts, `$passed` for later ones, `$exposed` for the last,
    `$unexposed` for the others, `$shown` for the last stage's `keep`, and `$warm_up` for the longest warm-up of its
    distillations. With `optional: true`, arms that the config does not allow, or that change nothing, are left out.

    corank comes with nine such files, known by name: `architecture`, `purposes`, `structures`, `settings`,
    `quotas`, `consistency`, `ranker_first`, `towers` and `samples`.

    The best arm is written as a config next to the file, trained once more into `run/` of the folder, and only that run
    is measured on the test split.

    Args:
        config: a YAML file; a mapping, a `corank.Config` or one with `tables` is written as `NAME.yaml`.
        arms: the YAML file of the arms, or the name of one that corank comes with.
        out: the experiment's folder (default: `experiments/NAME` next to the config). Its trials are not trained again.
        seeds: seeds an arm.
        rates: factors on all learning rates; the first seed chooses each arm's.
        metric: the figure that chooses, such as `rank.click.auc` or `joint_click_recall`; the last stage's GAUC unless
            given.
        overrides: `a.b=value` changes of the config, shared by all arms.
        report: takes a line about each training.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.

    Returns the document that is also written to `experiment.json`, next to the page `experiment.html`. Raises
    ConfigError, DataError, BusyError if another process writes the experiment, and CorankError if the folder cannot be
    written.

    Example:
        >>> _ = Path("shop/arms.yaml").write_text("arms: {narrow ranker: {set: {stages.1.hidden: [8]}}}")
        >>> result = corank.experiment("shop/config.yaml", "shop/arms.yaml", seeds=1)
        >>> sorted(result["arms"])
        ['as written', 'narrow ranker']
    """
    folder = local(out)
    opened_config, file, overrides = _keep(config, overrides, tables)
    arm_set, budget = build_file(file, overrides, require_local(arms)), engine.Budget(seeds, tuple(rates))
    settings = arm_set.arms[0].config
    objectives.Objective.of(settings, metric)  # before anything is packed
    with opened_config.frames.named():
        arm_set = arm_set.with_data(with_moments(settings, file.parent).data)
    with _open_data(opened_config, arm_set.arms[0].config, folder, "experiment", report) as data:
        return _finish(data, searches.run_experiment(file, arm_set, data, budget, metric))


def _finish(data: "TrialData", document: dict[str, Any]) -> ExperimentResult:
    """Write the page next to the document."""
    write_page(experiment_view(document), data.folder / f"{document['kind']}.html")
    return ExperimentResult(document)


def _keep(
    config: ConfigSource, overrides: Sequence[str], tables: Mapping[str, TableSource] | None
) -> tuple[OpenedConfig, Path, Sequence[str]]:
    """Open a config that lies in a file; returns it, the file, and the changes that are not in the file.

    With tables the file is written, and holds the changes, since where frames lie depends on the `name`.
    """
    unwritten = () if tables else overrides
    opened_config = OpenedConfig.open(config, overrides if tables else (), tables=tables)
    return opened_config, opened_config.kept_file(), unwritten


@contextmanager
def _open_data(
    opened_config: OpenedConfig, config: Config, out: Path | None, kind: str, report: Report
) -> "Iterator[TrialData]":
    """Lock the folder of a search, the default one of its kind unless given, and open the config's packed data.

    Raises BusyError, DataError, and CorankError if the folder cannot be written.
    """
    base = opened_config.base
    folder = out or base / FOLDERS[kind] / config.name
    try:
        lock = WriteLock(folder, kind)
    except OSError as error:
        raise CorankError(f"{folder}: cannot be written: {error}; name another place with --out") from None
    with lock, opened_config.frames.named():
        packed = open_or_pack(config, base, report)
        findings = judge(profile_training(config, base, packed))
        refuse_errors(findings)
        report_findings(findings, report)
        yield engine.TrialData(packed, base, folder, report)


def tune(
    config: ConfigSource,
    trials: Annotated[int | None, Ge(2)] = None,
    seed: Annotated[int, Ge(0)] = 0,
    metric: str | None = None,
    search: Sequence[str] = (),
    grid: Annotated[PathOrUrl | Grid | None, Option(parse=Path)] = None,
    budget_us: float | None = None,
    out: PathOrUrl | None = None,
    overrides: Overrides = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
) -> ExperimentResult:
    """Search for better settings on the validation split: a grid of values, or draws of Optuna (extra `tune`).

    The best trial is written as a config next to the file and trained once more; only then the test split is read.

    Args:
        config: a YAML file; a mapping, a `corank.Config` or one with `tables` is written as `NAME.yaml`.
        trials: how many, with the config as written (default: 30).
        seed: of the draws; the same gives the same trials.
        metric: the figure to improve (default: the last stage's GAUC, in a budget `joint_click_recall`).
        search: what is searched, as `KEY=LOW..HIGH`, `KEY=LOW..HIGH log` or `KEY=VALUE,VALUE`, or a YAML file from keys
            to ranges or lists of values; learning rates, widths, dropout, smoothing and weights of losses unless given;
            the `strength` or `lambda` of the page if `metric` is a figure of pages: trials that differ there alone
            share one training.
        grid: a YAML file from keys to lists of values, or such a mapping: every combination is tried.
        budget_us: microseconds a request may take on this machine: the first quota is searched, too, and without a grid
            widths and features.
        out: the folder (default: `tunings/NAME` next to the config); its trials are not trained again.
        overrides: `a.b=value` changes of the config, shared by all trials.
        report: takes a line about each training.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.

    Returns the document that is also written to `tune.json`, next to the page `tune.html`. Raises ConfigError,
    DataError, BusyError if another process writes the tuning, and CorankError if the folder cannot be written.

    Example:
        >>> tuning = corank.tune("shop/config.yaml", 2, search=["train.rank.lr=0.001..0.01 log"])
        >>> [trial["number"] for trial in tuning["trials"]]
        [1, 2]
    """
    if grid is None:
        tunings.load_optuna()  # fails before anything is packed
    else:
        _reject_with_grid(trials=trials, seed=seed, search=search)
    opened_config, file, overrides = _keep(config, overrides, tables)
    with opened_config.frames.named():
        settings = with_moments(read(file, overrides), file.parent)
    asked = _read_asked(settings, file.parent, search, grid)
    trials = TRIALS if grid is None and trials is None else trials
    metric = metric or (None if budget_us is None else "joint_click_recall")
    objective = objectives.Objective.of(settings, metric)
    if not objective.of_page:
        require_page_metric(asked, objective.name)
    if budget_us is not None:
        latency_budget.check_budget(settings, budget_us, objective)
    with _open_data(opened_config, settings, local(out), "tune", report) as data:
        return _finish(data, tunings.run_tune(file, asked, data, metric, trials, seed, budget_us))


def _reject_with_grid(**drawing: Any) -> None:
    """Raise ConfigError if an option of drawn trials is given, by name."""
    for name, given in drawing.items():
        if given:
            raise ConfigError(
                f"--{name}: not with --grid, which tries every combination; drop one of the two"
            )


def _read_asked(config: Config, base: Path, search: Sequence[str], grid: PathOrUrl | Grid | None) -> "Space":
    """What is searched. Raises ConfigError."""
    if grid is None:
        return read_space(config, base, search)
    return read_grid(config, base, grid if isinstance(grid, Mapping) else require_local(grid))

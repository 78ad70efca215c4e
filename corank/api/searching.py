"""The commands that search for better settings, as functions on paths; a user's mistake raises a CorankError."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from corank.analysis.search.budget import (
    LatencyBudget,
    budget_space,
    check_budget,
    largest_request,
    order_drops,
)
from corank.analysis.search.funnel_latency import LatencyMeter
from corank.analysis.search.grid import Grid, build_grid
from corank.analysis.search.objective import Objective
from corank.analysis.search.sampler import load_optuna
from corank.analysis.search.space import Space, default_space, read_space
from corank.analysis.search.sweep import run_sweep
from corank.analysis.search.sweep_page import sweep_page
from corank.analysis.search.tune import check_tuning, run_tune
from corank.analysis.search.tune_page import tune_page
from corank.analysis.trials.trial_data import TrialData
from corank.api.config_source import ConfigSource, OpenedConfig, local
from corank.api.frames import TableSource
from corank.api.results.study_results import SearchResult
from corank.core.errors import CorankError
from corank.core.files import write_text
from corank.core.locks import WriteLock
from corank.core.storage.object_url import PathOrUrl
from corank.core.types import Report
from corank.training.config import Config
from corank.training.config_file import read
from corank.training.data_check import TrainingDataCheck
from corank.training.preparation.packed_data import open_or_pack
from corank.training.preparation.split_moments import with_moments


def sweep(
    config: ConfigSource,
    grid: Grid,
    out: PathOrUrl | None = None,
    seeds: int = 3,
    metric: str | None = None,
    overrides: Sequence[str] = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
) -> SearchResult:
    """Compare the arms of a grid of settings with the config as written, on the validation split.

    The best arm is written as a config next to the file, trained once more into `run/` of the folder, and only that run
    is measured on the test split.

    Args:
        config: a YAML file; a mapping, a `corank.Config` or one with `tables` is written as `NAME.yaml`.
        grid: values by key, such as `{"train.rank.lr": [0.001, 0.003]}`; the arms are their product.
        out: the sweep's folder; `sweeps/NAME` next to the config unless given. Trials that it holds are not trained
            again.
        seeds: seeds an arm.
        metric: the figure that chooses, such as `rank.click.auc` or `joint_click_recall`; the last stage's GAUC unless
            given.
        overrides: `a.b=value` changes of the config, shared by all arms.
        report: takes a line about each training.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.

    Returns the document that is also written to `sweep.json`, next to the page `sweep.html`. Raises ConfigError,
    DataError, BusyError if another process writes the sweep, and CorankError if the folder cannot be written.

    Example:
        >>> sweep = corank.sweep("shop/config.yaml", {"train.rank.lr": [0.003]}, seeds=1)
        >>> sweep["trials"], sweep["chosen"] in sweep["arms"]
        (2, True)
    """
    opened_config, file, overrides = _keep(config, overrides, tables)
    arms = build_grid(file, overrides, grid)
    Objective.of(arms.arms[0].config, metric)  # before anything is packed
    folder = local(out) or file.parent / "sweeps" / arms.arms[0].config.name
    with lock_search(folder, "sweep"), opened_config.frames.named():
        arms = arms.with_data(with_moments(arms.arms[0].config, file.parent).data)
        settings = arms.arms[0].config
        packed = open_or_pack(settings, file.parent, report)
        TrainingDataCheck.of(settings, packed).require()
        document = run_sweep(file, arms, packed, folder, seeds, metric, report)
        write_text(folder / "sweep.html", sweep_page(document))
    return SearchResult(document)


def _keep(
    config: ConfigSource, overrides: Sequence[str], tables: Mapping[str, TableSource] | None
) -> tuple[OpenedConfig, Path, Sequence[str]]:
    """Open a config that lies in a file; returns it, the file, and the changes that are not in the file.

    With tables the file is written, and holds the changes, since where frames lie depends on the `name`.
    """
    if tables:
        opened_config = OpenedConfig.open(config, overrides, tables=tables)
        return opened_config, opened_config.kept_file(), ()
    opened_config = OpenedConfig.open(config)
    return opened_config, opened_config.kept_file(), overrides


def _read(opened_config: OpenedConfig, file: Path, overrides: Sequence[str]) -> Config:
    """Read the config of a file under changes, with moments where its split has shares. Raises DataError."""
    with opened_config.frames.named():
        return with_moments(read(file, overrides), file.parent)


def lock_search(folder: Path, command: str) -> WriteLock:
    """Take the lock of a search's folder. Raises BusyError, CorankError if it cannot be written."""
    try:
        return WriteLock.of_folder(folder, command)
    except OSError as error:
        raise CorankError(f"{folder}: cannot be written: {error}; name another place with --out") from None


def tune(
    config: ConfigSource,
    trials: int = 30,
    seed: int = 0,
    metric: str | None = None,
    search: Sequence[str] = (),
    space: PathOrUrl | None = None,
    budget_us: float | None = None,
    out: PathOrUrl | None = None,
    overrides: Sequence[str] = (),
    report: Report = lambda line: None,
    tables: Mapping[str, TableSource] | None = None,
) -> SearchResult:
    """Search for better settings by Optuna, on the validation split; needs `corank[tune]`.

    The best trial is written as a config next to the file and trained once more; only then the test split is read.

    Args:
        config: a YAML file; a mapping, a `corank.Config` or one with `tables` is written as `NAME.yaml`.
        trials: how many, the config as written among them.
        seed: of what is drawn; the same gives the same trials.
        metric: the figure that is searched for; unless given the last stage's GAUC, `joint_click_recall` in a budget.
        search: what is searched, as `KEY=LOW..HIGH`, `KEY=LOW..HIGH log` or `KEY=VALUE,VALUE`; learning rates, widths,
            dropout, smoothing and weights of losses unless this or `space` is given.
        space: a YAML file of the same, from keys to ranges or lists of values.
        budget_us: microseconds a request may take on this machine: widths, features and first quota are searched, too.
        out: the folder, `tunings/NAME` next to the config unless given; trials that it holds are not trained again.
        overrides: `a.b=value` changes of the config, shared by all trials.
        report: takes a line about each training.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.

    Returns the document that is also written to `tune.json`, next to the page `tune.html`. Raises ConfigError,
    DataError, BusyError if another process writes the tuning, and CorankError if the folder cannot be written.

    Example:
        >>> tuning = corank.tune("shop/config.yaml", 2, search=["train.rank.lr=0.001..0.01 log"])
        >>> tuning.tables["trials"]["number"].to_list()
        [1, 2]
    """
    load_optuna()  # fails before anything is packed
    opened_config, file, overrides = _keep(config, overrides, tables)
    base, settings = file.parent, _read(opened_config, file, overrides)
    asked = read_space(settings, search, local(space))
    metric = metric or (None if budget_us is None else "joint_click_recall")
    objective = Objective.of(settings, metric)
    if budget_us is not None:
        check_budget(settings, budget_us, objective)
    folder = local(out) or base / "tunings" / settings.name
    with lock_search(folder, "tune"), opened_config.frames.named():
        packed = open_or_pack(settings, base, report)
        TrainingDataCheck.of(settings, packed).require()
        data, objective = TrialData(packed, base, folder, report), Objective.of(settings, metric, packed)
        check_tuning(packed, objective, trials, seed)
        budget = None if budget_us is None else _open_budget(budget_us, data, folder, objective)
        if budget is not None:
            asked = [*budget_space(settings, order_drops(settings, data)), *asked]
        searched = Space.of(settings, base, asked or default_space(settings))
        document = run_tune(file, searched, data, objective, trials, seed, report, budget)
        write_text(folder / "tune.html", tune_page(document))
    return SearchResult(document)


def _open_budget(microseconds: float, data: TrialData, folder: Path, objective: Objective) -> LatencyBudget:
    """Open a budget, whose latencies are kept in the tuning's folder."""
    meter = LatencyMeter(folder / "latency", data)
    return LatencyBudget(microseconds, meter, objective, largest_request(data))

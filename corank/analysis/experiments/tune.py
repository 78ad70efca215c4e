"""A tuning: trials that Optuna draws from a space, compared on the validation split; the best one is tested once.

Optuna says what to try next, and which training to end early. It keeps nothing on disk here. A resumed tuning reports
the stored trials to a new study in memory, and each trial's values are drawn with a seed of its number, so that it
continues as if it had not been interrupted.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corank.analysis.experiments.arms import BASE
from corank.analysis.experiments.engine import Trial, TrialData, TrialProgress, TrialStore
from corank.analysis.experiments.figures import Objective, format_difference, plain_differences
from corank.analysis.experiments.latency_budget import LatencyBudget, Priced, describe_machine
from corank.analysis.experiments.search import (
    ValidationFigures,
    begin_search,
    count_rows,
    describe_requests,
    finish_search,
    require_validation,
)
from corank.analysis.experiments.space import Range, Space, check_space
from corank.core.errors import ConfigError, DataError
from corank.core.files import write_text
from corank.core.lazy import require
from corank.core.reports import Report
from corank.data.packed.dataset import PackedDataset
from corank.training.config.config import Config
from corank.training.config.config_file import plain

if TYPE_CHECKING:
    import optuna


RANDOM_TRIALS = 10
"""Trials that are drawn at random before the search learns from them."""
UNPRUNED_TRIALS = 5
"""Trials that must have ended before one is ended early."""
UNPRUNED_CHECKS = 1
"""Checks at the start of a training by which none is ended: learning rates decide those."""
SEEDS = 1_000_003
"""Trials of a tuning, at most: between the seeds of two tunings."""


def load_optuna() -> "Any":
    """Import Optuna. Raises MissingExtraError if it is not installed."""
    optuna: Any = require("optuna", "corank tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Sampler:
    """Tree-structured Parzen estimators with median pruning.

    Sources: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NIPS 2011; Golovin et al., Google Vizier, KDD
    2017, for the median rule.
    """

    def __init__(self, space: Space, seed: int) -> None:
        """
        Raises MissingExtraError if Optuna is not installed.
        """
        self.optuna, self.space, self.seed = load_optuna(), space, seed
        self.study: optuna.Study = self.optuna.create_study(
            direction="maximize",
            study_name="tune",
            pruner=self.optuna.pruners.MedianPruner(UNPRUNED_TRIALS, UNPRUNED_CHECKS + 1),
        )
        self.distributions = {
            name: self._distribution(parameter.range) for name, parameter in space.parameters.items()
        }

    def _distribution(self, span: Range) -> "optuna.distributions.BaseDistribution":
        kinds = self.optuna.distributions
        if span.choices:  # by number, since Optuna takes no lists
            distribution = kinds.CategoricalDistribution(list(range(len(span.choices))))
        elif span.whole:
            distribution = kinds.IntDistribution(int(span.low), int(span.high), log=span.log)
        else:
            distribution = kinds.FloatDistribution(span.low, span.high, log=span.log)
        return distribution  # type: ignore[no-any-return]

    def add(self, values: Mapping[str, Any], merit: float, interim: list[float]) -> None:
        """Report a trial whose values were not drawn."""
        params = {name: self._coded(name, value) for name, value in values.items()}
        self.study.add_trial(
            self.optuna.trial.create_trial(
                params=params,
                distributions=self.distributions,
                value=merit,
                intermediate_values=dict(enumerate(interim, start=1)),
            )
        )

    def _coded(self, name: str, value: Any) -> Any:
        choices = self.space.parameters[name].range.choices
        return next(n for n, choice in enumerate(choices) if choice == value) if choices else value

    def ask(self, number: int) -> tuple["optuna.Trial", dict[str, Any]]:
        """Draw the values of a trial."""
        seed = (self.seed * SEEDS + number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
            trial = self.study.ask(self.distributions)
        values = {name: self._decoded(name, trial.params[name]) for name in self.space.parameters}
        return trial, values

    def _decoded(self, name: str, value: Any) -> Any:
        choices = self.space.parameters[name].range.choices
        return choices[value] if choices else value

    def tell(self, trial: "optuna.Trial", merit: float | None) -> None:
        """Report the merit of a trial; None if it was ended early, diverged or was not possible."""
        if merit is None:
            self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, merit)

    def importance(self) -> dict[str, float]:
        """The share of each parameter in the quality of good trials; empty if there are too few.

        Source: Watanabe et al., PED-ANOVA, IJCAI 2023.
        """
        complete = [t for t in self.study.trials if t.state == self.optuna.trial.TrialState.COMPLETE]
        if len({t.value for t in complete}) < UNPRUNED_TRIALS or len(self.distributions) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = self.optuna.importance.PedAnovaImportanceEvaluator()
            shares = self.optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return {name: float(share) for name, share in shares.items()}


@dataclass(frozen=True)
class TunedTrial:
    """One trial of a tuning."""

    number: int
    """From 1, the config as written."""
    values: dict[str, Any] | None
    """The parameters; None if the config as written lies outside the space."""
    config: Config
    """Under a budget with the quota that counts."""
    trial: Trial | None
    """None if the funnel does not fit the budget at any quota, and was not trained."""
    value: float | None
    """The objective; None if it was ended early, diverged or does not fit."""
    points: list[Priced] = field(default_factory=list)
    """Under a budget, the funnel at each quota."""
    counts: Priced | None = None
    """The one of them that counts."""


def run_tune(
    config_file: Path,
    space: Space,
    data: TrialData,
    objective: Objective,
    trials: int = 30,
    seed: int = 0,
    report: Report = lambda line: None,
    budget: LatencyBudget | None = None,
) -> dict[str, Any]:
    """Search a space, and return the document of the tuning.

    The folder of `data` gets search.json first, trials/ as they end, run/ of the best trial, and tune.json last.
    Trials that it holds already are not trained again.

    Args:
        config_file: the config as written.
        space: what is searched.
        data: packed data of the config as written; its folder is that of the tuning.
        objective: what is searched for.
        trials: how many, the config as written among them.
        seed: of what is drawn; the same gives the same trials.
        report: receives a line about each trial.
        budget: a bound of the funnel's latency.

    Raises ConfigError if nothing fits the budget, the folder holds a tuning of something else, or Optuna is not
    installed; DataError, CorankError.
    """
    config, sampler, out, packed = space.config, Sampler(space, seed), data.folder, data.packed
    check_space(space)
    facts = {"kind": "tune", "seed": seed, "metric": objective.name, "space": space.plain()}
    begin_search(out, facts | {"by_quota": budget is not None, "config": plain(config)})
    if budget is not None:
        budget.require_some_fit(space)
    store = TrialStore(out / "trials", data, ValidationFigures(objective, budget is not None))
    search = _Search(space, sampler, objective, store, TrialProgress(trials, report), budget)
    tuned_trials = search.run(trials)
    best = best_trial(tuned_trials, objective)
    document = {
        "name": config.name,
        **count_rows(packed, "valid"),
        "budget": describe_budget(budget, tuned_trials),
        "metric": objective.name,
        "better": objective.metric.better,
        "seed": seed,
        "space": space.plain(),
        "importance": sampler.importance(),
        "trials": [describe_tuned(one) for one in tuned_trials],
        "best": best.number,
        **_compare(tuned_trials, best, objective),
        "config": plain(config),
    }
    document |= finish_search(out, best.config, data.of(best.config), config_file, objective, "tune", report)
    write_text(out / "tune.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def check_tuning(packed: PackedDataset, objective: Objective, trials: int, seed: int) -> None:
    """Raise ConfigError or DataError if a tuning is not possible."""
    if not 2 <= trials < SEEDS:
        raise ConfigError(f"trials: must be 2 or more, the config as written among them; received {trials}")
    if seed < 0:
        raise ConfigError(f"seed: must be 0 or more; received {seed}")
    require_validation(packed)
    objective.require_bucket(packed)


@dataclass(frozen=True)
class _Search:
    """Runs the config as written, then what the sampler draws."""

    space: Space
    sampler: Sampler
    objective: Objective
    store: TrialStore
    progress: TrialProgress
    budget: LatencyBudget | None

    def run(self, trials: int) -> list[TunedTrial]:
        tuned_trials = [self._written()]
        for number in range(2, trials + 1):
            one = self._drawn(number)
            if one is not None:
                tuned_trials.append(one)
        return tuned_trials

    def _written(self) -> TunedTrial:
        """The trial of the config as written, which is never ended early."""
        config = self.space.config_of({})
        trial, seconds = self.store.run(config, stop=lambda check, merit: False)
        one = self._judge(1, self.space.written, config, trial)
        if self.space.written is not None and one.value is not None:
            self.sampler.add(self.space.written, self.objective.merit(one.value), trial.interim)
        self.progress(BASE, self._describe(one), seconds)
        return one

    def _drawn(self, number: int) -> TunedTrial | None:
        """A trial that the sampler draws; None if its values contradict each other."""
        drawn, values = self.sampler.ask(number)
        said = ", ".join(f"{name}={format_value(value)}" for name, value in values.items())
        try:
            config = self.space.config_of(values)
        except ConfigError as error:
            self.sampler.tell(drawn, None)
            self.progress(said, f"not possible: {error}", 0.0)
            return None
        if self.budget is not None and not self.budget.fits(config):
            self.sampler.tell(drawn, None)
            one = TunedTrial(number, values, config, None, None)
            self.progress(said, self._describe(one), 0.0)
            return one

        def stop(check: int, merit: float) -> bool:
            drawn.report(merit, check)
            return bool(drawn.should_prune())

        trial, seconds = self.store.run(config, stop=stop)
        if seconds is None:
            for check, merit in enumerate(trial.interim, start=1):
                drawn.report(merit, check)
        one = self._judge(number, values, config, trial)
        self.sampler.tell(drawn, None if one.value is None else self.objective.merit(one.value))
        self.progress(said, self._describe(one), seconds)
        return one

    def _judge(self, number: int, values: dict[str, Any] | None, config: Config, trial: Trial) -> TunedTrial:
        """The trial with its value; under a budget that of its best quota that fits."""
        if self.budget is None or not trial.figures:
            figure = trial.figures.get(self.objective.name)
            return TunedTrial(number, values, config, trial, None if figure is None else figure.value)
        points = self.budget.points(number, config, trial)
        best = self.budget.best(points)
        if best is None:
            return TunedTrial(number, values, config, trial, None, points)
        stages = [config.stages[0].model_copy(update={"keep": best.quota}), *config.stages[1:]]
        kept = config.model_copy(update={"stages": stages})
        return TunedTrial(number, values, kept, trial, best.value, points, best)

    def _describe(self, one: TunedTrial) -> str:
        name = self.objective.name
        if one.trial is None:
            return "too slow at every quota, not trained"
        if one.counts is not None:
            return f"{name} {one.counts.value:.4f} at keep {one.counts.quota}, {one.counts.latency}"
        if self.budget is not None and one.trial.figures:
            return "too slow at every quota"
        return self.store.describe(one.trial)


def format_value(value: Any) -> str:
    """A parameter's value with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def best_trial(found: list[TunedTrial], objective: Objective) -> TunedTrial:
    """The trial with the highest merit; among equals the fastest, where latencies count, then the first.

    Raises DataError if none has a value.
    """
    ended = [
        (objective.merit(one.value), -one.counts.latency.median if one.counts else 0.0, -one.number, one)
        for one in found
        if one.value is not None
    ]
    if ended:
        return max(ended, key=lambda entry: entry[:3])[3]
    points = [point for one in found for point in one.points]
    if points:
        cheapest = min(points, key=lambda point: point.latency.high)
        raise DataError(
            f"--budget-us: no trained funnel fits; the cheapest is trial {cheapest.trial} at keep {cheapest.quota}, "
            f"{cheapest.latency}; try more trials, or raise the budget"
        )
    raise DataError("every trial diverged; lower train.table.lr or the stages' lr, or search lower ones")


def describe_budget(budget: LatencyBudget | None, found: list[TunedTrial]) -> dict[str, Any] | None:
    """The bound, the machine and the frontier of all trained funnels as JSON values; None without a budget."""
    if budget is None:
        return None
    frontier = budget.frontier([point for one in found for point in one.points])
    return {
        "us": budget.us,
        "machine": describe_machine(),
        "frontier": [point.plain() for point in frontier],
    }


def describe_tuned(one: TunedTrial) -> dict[str, Any]:
    """A trial as JSON values."""
    trial = one.trial
    if trial is None:
        state = "too slow"
    else:
        state = "diverged" if trial.diverged else "ended early" if trial.pruned else "complete"
    return {
        "number": one.number,
        "values": one.values,
        "state": state,
        "value": one.value,
        "figures": {name: figure.value for name, figure in trial.figures.items()} if trial else {},
        "checks": trial.interim if trial else [],
        "seconds": trial.seconds if trial else 0.0,
        "parameters": trial.parameters if trial else {},
        "keep": one.counts.quota if one.counts else None,
        "us": asdict(one.counts.latency) if one.counts else None,
    }


def _compare(tuned_trials: list[TunedTrial], best: TunedTrial, objective: Objective) -> dict[str, Any]:
    """The parts `chosen`, `changes`, `to_base` and `verdict`: the best trial against the config as written."""
    assert best.trial is not None
    rests = describe_requests(best.trial.figures[objective.name].requests)
    if best.counts is not None:
        return _compare_priced(tuned_trials[0], best, best.counts, objective, rests)
    if best.number == 1:
        said = f"No trial has a better {objective.name} than the config as written, {rests}."
        return {"chosen": BASE, "changes": {}, "to_base": {}, "verdict": said}
    said = f"trial {best.number} has the best {objective.name}, {rests}: {_format_values(best.values or {})}."
    written, compared = tuned_trials[0].trial, dict[str, Any]()
    if written and written.figures:
        compared = plain_differences([(best.trial.figures, written.figures)])
        said += f" Beside the config as written {format_difference(compared[objective.name])}, over users, at one seed."
    return {"chosen": f"trial {best.number}", "changes": best.values, "to_base": compared, "verdict": said}


def _compare_priced(
    written: TunedTrial, best: TunedTrial, counts: Priced, objective: Objective, rests: str
) -> dict[str, Any]:
    """The same under a budget: recall and latency of both."""
    changes = (best.values or {} if best.number > 1 else {}) | {"stages.0.keep": counts.quota}
    chosen = BASE if best.number == 1 else f"trial {best.number}"
    said = (
        f"{chosen} has the best {objective.name} within the budget, {rests}, {counts.value:.4f} in {counts.latency}: "
        f"{_format_values(changes)}."
    )
    if best.number > 1 and written.counts is not None:
        base = written.counts
        said += f" The config as written: {base.value:.4f} in {base.latency}, at keep {base.quota}."
    elif best.number > 1:
        said += " The config as written does not fit at any quota."
    return {"chosen": chosen, "changes": changes, "to_base": {}, "verdict": said}


def _format_values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={format_value(value)}" for name, value in values.items())

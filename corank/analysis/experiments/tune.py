"""A tuning: trials of a space, compared on the validation split; the best one is tested once.

A grid gives every combination of its values. Otherwise Optuna says what to try, and which training to end early; it
keeps nothing on disk here. A resumed tuning reports the stored trials to a new study in memory, and each
trial's values are drawn with a seed of its number, so that it continues as if it had not been interrupted.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from corank.analysis.experiments.arms import BASE, Arm, format_values
from corank.analysis.experiments.engine import (
    ArmResult,
    Stop,
    Trial,
    TrialData,
    TrialProgress,
    TrialStore,
    stack_rows,
)
from corank.analysis.experiments.figures import Objective, with_quota
from corank.analysis.experiments.latency_budget import (
    LatencyBudget,
    LatencyMeter,
    Priced,
    budget_space,
    cheapest_values,
    order_drops,
)
from corank.analysis.experiments.search import (
    ValidationFigures,
    begin_search,
    describe_best,
    finish_search,
)
from corank.analysis.experiments.space import (
    Range,
    Space,
    check_space,
    default_space,
    list_points,
    page_space,
)
from corank.core.errors import ConfigError, DataError
from corank.core.lazy import require
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


@dataclass(frozen=True)
class Draw:
    """What a trial tries, and who learns of it."""

    values: dict[str, Any]
    """The parameters that are set; none in the config as written."""
    stop: Stop | None = None
    """Whether to end the training early; None: it is not validated for it."""
    tell: Callable[[float | None, list[float]], None] = lambda merit, interim: None
    """Takes the merit, None if it was ended early, diverged or was not possible, and the interim merits."""


class Sampler:
    """The config as written, then tree-structured Parzen estimators with median pruning.

    Sources: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NIPS 2011; Golovin et al., Google Vizier, KDD
    2017, for the median rule.
    """

    def __init__(self, space: Space, seed: int) -> None:
        """Raises MissingExtraError if Optuna is not installed."""
        self.optuna, self.space, self.seed = load_optuna(), space, seed
        self.study: optuna.Study = self.optuna.create_study(
            direction="maximize",
            study_name="tune",
            pruner=self.optuna.pruners.MedianPruner(UNPRUNED_TRIALS, UNPRUNED_CHECKS + 1),
        )
        self.distributions = {name: self._distribution(p.range) for name, p in space.parameters.items()}

    def _distribution(self, span: Range) -> Any:
        kinds = self.optuna.distributions
        if span.choices:  # by number, since Optuna takes no lists
            return kinds.CategoricalDistribution(list(range(len(span.choices))))
        kind = kinds.IntDistribution if span.whole else kinds.FloatDistribution
        return kind(span.low, span.high, log=span.log)

    def _choices(self, name: str) -> tuple[Any, ...]:
        return self.space.parameters[name].range.choices

    def ask(self, number: int) -> Draw:
        """What a trial tries."""
        if number == 1:
            return Draw({}, lambda check, merit: False, self._add_written)
        seed = (self.seed * SEEDS + number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
            trial = self.study.ask(self.distributions)
        drawn = {name: trial.params[name] for name in self.space.parameters}
        values = {n: self._choices(n)[v] if self._choices(n) else v for n, v in drawn.items()}
        reported = set[int]()

        def stop(check: int, merit: float) -> bool:
            reported.add(check)
            trial.report(merit, check)
            return bool(trial.should_prune())

        def tell(merit: float | None, interim: list[float]) -> None:
            for check, value in enumerate(interim, start=1):
                if check not in reported:  # the training was read from disk
                    trial.report(value, check)
            self.study.tell(trial, merit, self.optuna.trial.TrialState.PRUNED if merit is None else None)

        return Draw(values, stop, tell)

    def _add_written(self, merit: float | None, interim: list[float]) -> None:
        """Learn of the config as written, whose values were not drawn, if it lies in the space."""
        written = self.space.written
        if merit is None or written is None:
            return
        params = {n: self._choices(n).index(v) if self._choices(n) else v for n, v in written.items()}
        checks = dict(enumerate(interim, start=1))
        made = self.optuna.trial.create_trial(
            params=params, distributions=self.distributions, value=merit, intermediate_values=checks
        )
        self.study.add_trial(made)


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
    metric: str | None,
    trials: int | None,
    seed: int,
    budget_us: float | None,
) -> dict[str, Any]:
    """Search a space, and return the document of the tuning.

    The folder of `data` gets search.json first, trials/ as they end, run/ of the best trial, and tune.json last.
    Trials that it holds already are not trained again; nor are, if `metric` is a figure of pages, those that differ
    from another in the page alone: until the end their runs are kept in trained/.

    Args:
        config_file: the config as written.
        space: what is searched; `default_space`, or that of a budget, if it has no parameters.
        data: packed data of the config as written; its folder is that of the tuning.
        metric: the figure that is searched for; as in `Objective.of` unless given.
        trials: how many, the config as written among them; None for every combination of the space's values.
        seed: of what is drawn; the same gives the same trials.
        budget_us: a bound of the funnel's latency in microseconds.

    Raises ConfigError if nothing fits the budget, the folder holds a tuning of something else, or Optuna is not
    installed; DataError, CorankError.
    """
    config, out = space.config, data.folder
    objective = Objective.of(config, metric, data.packed)
    _require_bounds(trials, seed)
    meter = LatencyMeter(out / "latency", data)
    budget = None if budget_us is None else LatencyBudget(budget_us, meter, objective)
    facts: dict[str, Any] = {"kind": "grid", "config": plain(config)}
    sampler = None
    if trials is None:
        timed = [{}, *list_points(space)]
        trials, draws = len(timed), map(Draw, timed)
    else:
        facts |= {"kind": "tune", "seed": seed, "metric": objective.name, "by_quota": budget is not None}
        space = _space_to_draw(space, data, budget is not None, objective.of_page)
        facts |= {"space": space.plain()}  # what is drawn depends on all of these, a grid does not
        sampler, timed = Sampler(space, seed), [cheapest_values(space)]
        draws = map(sampler.ask, range(1, trials + 1))  # each once the one before has been told of
    begin_search(out, facts)
    if budget is not None:
        budget.require_some_fit(space, timed)
    store = TrialStore(out / "trials", data, ValidationFigures(objective, budget is not None))
    search = _Search(space, objective, store, TrialProgress(trials, data.report), budget)
    tuned = [*filter(None, starmap(search.run, enumerate(draws, start=1)))]
    store.remove_runs()
    return _finish(config_file, search, sampler, tuned)


def _finish(
    config_file: Path, search: "_Search", sampler: Sampler | None, tuned: list[TunedTrial]
) -> dict[str, Any]:
    """Choose the best of the trials, and return the document of the tuning, as `finish_search` does."""
    space, objective, budget = search.space, search.objective, search.budget
    best = best_trial(tuned, objective)
    arms = [
        ArmResult(Arm(_name(one.number), one.config), [], None, [one.trial]) for one in tuned if one.trial
    ]
    rows = stack_rows(arms, "valid", [] if budget else arms[:1])  # a difference would be at other quotas
    parts = {
        "budget": budget.describe([point for one in tuned for point in one.points]) if budget else None,
        "seed": sampler.seed if sampler else None,
        "space": space.plain(),
        "trials": [describe_tuned(one) for one in tuned],
        "best": best.number,
        **_compare(best, rows, objective.name),
        "config": plain(space.config),
    }
    return finish_search(config_file, search.store.data, best.config, objective, "tune", rows, parts)


def _require_bounds(trials: int | None, seed: int) -> None:
    if trials is not None and not 2 <= trials < SEEDS:
        raise ConfigError(f"trials: must be 2 or more, the config as written among them; received {trials}")
    if seed < 0:
        raise ConfigError(f"seed: must be 0 or more; received {seed}")


def _space_to_draw(space: Space, data: TrialData, bounded: bool, of_page: bool) -> Space:
    """What was asked for, under a budget with what makes a funnel faster; the default if that is nothing."""
    default = page_space if of_page else default_space
    asked = [*space.parameters.values()]
    if bounded:
        asked = [*budget_space(space.config, order_drops(space.config, data)), *asked]
    drawn = Space.of(space.config, data.base, asked or default(space.config))
    check_space(drawn)
    return drawn


@dataclass(frozen=True)
class _Search:
    """Runs the config as written, then what is drawn."""

    space: Space
    objective: Objective
    store: TrialStore
    progress: TrialProgress
    budget: LatencyBudget | None

    def run(self, number: int, draw: Draw) -> TunedTrial | None:
        """Run a trial, of which the first is the config as written; None if its values contradict each other."""
        written, seconds = number == 1, cast(float | None, 0.0)
        said = ", ".join(format_values(draw.values)) or BASE
        try:
            config = self.space.config_of(draw.values)
        except ConfigError as error:
            draw.tell(None, [])
            self.progress(said, f"not possible: {error}", seconds)
            return None
        one = TunedTrial(number, self.space.written if written else draw.values, config, None, None)
        if written or self.budget is None or self.budget.fits(config):
            trial, seconds = self.store.run(config, stop=draw.stop)
            one = self._judge(replace(one, trial=trial), trial)
        merit = None if one.value is None else self.objective.merit(one.value)
        draw.tell(merit, one.trial.interim if one.trial else [])
        self.progress(said, self._describe(one), seconds)
        return one

    def _judge(self, one: TunedTrial, trial: Trial) -> TunedTrial:
        """The trial with its value; under a budget that of its best quota that fits."""
        if self.budget is None or not trial.figures:
            figure = trial.figures.get(self.objective.name)
            return replace(one, value=None if figure is None else figure.value)
        points = self.budget.points(one.number, one.config, trial)
        best = self.budget.best(points)
        if best is None:
            return replace(one, points=points)
        kept = with_quota(one.config, best.quota)
        return replace(one, config=kept, value=best.value, points=points, counts=best)

    def _describe(self, one: TunedTrial) -> str:
        name = self.objective.name
        if one.trial is None:
            return "too slow at every quota, not trained"
        if one.counts is not None:
            return f"{name} {one.counts.value:.4f} at keep {one.counts.quota}, {one.counts.us}"
        if self.budget is not None and one.trial.figures:
            return "too slow at every quota"
        return self.store.describe(one.trial)


def best_trial(tuned: list[TunedTrial], objective: Objective) -> TunedTrial:
    """The trial with the highest merit; among equals the fastest, where latencies count, then the first.

    Raises DataError if none has a value.
    """
    ended = {
        (objective.merit(one.value), -one.counts.us.median if one.counts else 0.0, -one.number): one
        for one in tuned
        if one.value is not None
    }
    if ended:
        return ended[max(ended)]
    points = [point for one in tuned for point in one.points]
    if points:
        cheapest = min(points, key=lambda point: point.us.high)
        raise DataError(
            f"--budget-us: no trained funnel fits; the cheapest is trial {cheapest.trial} at keep {cheapest.quota}, "
            f"{cheapest.us}; try more trials, or raise the budget"
        )
    raise DataError("every trial diverged; lower train.table.lr or the stages' lr, or search lower ones")


def describe_tuned(one: TunedTrial) -> dict[str, Any]:
    """A trial as JSON values."""
    trial = one.trial or Trial()
    state = "diverged" if trial.diverged else "ended early" if trial.pruned else "complete"
    return {
        "number": one.number,
        "values": one.values,
        "state": state if one.trial else "too slow",
        "value": one.value,
        "checks": trial.interim,
        "seconds": trial.seconds,
        "parameters": trial.parameters,
        "keep": one.counts.quota if one.counts else None,
        "us": asdict(one.counts.us) if one.counts else None,
    }


def _name(number: int) -> str:
    """The name of a trial in the rows."""
    return BASE if number == 1 else f"trial {number}"


def _compare(best: TunedTrial, rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """The parts `chosen`, `changes` and `verdict` of the document."""
    chosen, changes = _name(best.number), (best.values or {}) if best.number > 1 else {}
    said = describe_best(rows, chosen, metric)
    if best.counts is not None:
        changes = changes | {"stages.0.keep": best.counts.quota}
        said += f" Within the budget: {best.counts.value:.4f} in {best.counts.us}."
    if changes:
        said += f" It changes {', '.join(format_values(changes))}."
    return {"chosen": chosen, "changes": changes, "verdict": said}

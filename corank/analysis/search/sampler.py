"""Optuna's part of a tuning: what to try next, and which training to end early.

Optuna keeps nothing on disk here. A resumed tuning reports the stored trials to a new study in memory, and each trial's
values are drawn with a seed of its number, so that it continues as if it had not been interrupted.
"""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corank.analysis.search.space import Range, Space
from corank.core.extras import require

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
    optuna: Any = require("tune", "optuna", "corank tune")
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

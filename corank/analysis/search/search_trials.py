"""One training of a search, measured on the validation split; the test split is not read."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from corank.analysis.search.objective import Objective, measure_validation, values_by_quota
from corank.analysis.trials.figure import Figure
from corank.analysis.trials.trial_data import TrialData
from corank.analysis.trials.trial_files import TrialFiles
from corank.analysis.trials.trial_training import count_parameters, train_trial
from corank.data.dataset import PackedDataset
from corank.evaluation.predict import predict_split
from corank.training.callbacks import Callback, TrainingEvaluation
from corank.training.config import Config
from corank.training.preparation.schedule import plan_packed
from corank.training.run import Run
from corank.training.train import MidEpochChecks

FORMAT = "search-1"
CHECKS = 4
"""Validations of a training, at least, by which it may be ended early."""
QUOTAS = 12
"""Points of a quota curve, about."""

Stop = Callable[[int, float], bool]
"""Takes the number of a check, from 1, and the interim merit; returns whether the training is to end."""


@dataclass(frozen=True)
class SearchTrial:
    """One training of a config, or as far as it went."""

    diverged: str | None
    pruned: bool
    """Whether it was ended early."""
    interim: list[float]
    """The merit at each check."""
    steps: int
    parameters: dict[str, int]
    seconds: float
    figures: dict[str, Figure]
    """Of the validation split; empty if the training was ended early or diverged."""
    quotas: dict[str, list[Any]] = field(default_factory=dict)
    """`m` and `values`: the objective by the first stage's quota; empty if it was not asked for."""


class PrunedError(Exception):
    """Ends a training that is not promising; no error of the user."""


class _Pruning(Callback):
    """Computes the merit at each check, and ends the training if `stop` says so."""

    def __init__(self, objective: Objective, stop: Stop, epochs: int) -> None:
        self.objective, self.stop, self.epochs = objective, stop, epochs
        self.interim: list[float] = []

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Check the figures of an epoch."""
        self.check(event.epoch, event.learnt)

    def check(self, epochs: float, figures: dict[str, float | None]) -> None:
        """Check figures. Raises PrunedError."""
        merit = self.objective.interim_merit(figures)
        if merit is not None:
            self.interim.append(merit)
            # the last check is reported, too, though there is nothing left to save
            if self.stop(len(self.interim), merit) and epochs < self.epochs:
                raise PrunedError


@dataclass(frozen=True)
class SearchTrials:
    """Trains configs, and stores the measurements in a folder."""

    folder: Path
    data: TrialData
    objective: Objective
    by_quota: bool = False
    """Whether the objective is also measured by the first stage's quota."""

    def load(self, config: Config) -> SearchTrial | None:
        """The stored trial of a config; None if there is none, it is damaged, or it lacks what is asked for."""
        document = self._files(config).load(config)
        try:
            trial = None if document is None else _trial(document)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if trial is None or trial.diverged is not None or trial.pruned:
            return trial
        lacks = self.objective.name not in trial.figures or (self.by_quota and not trial.quotas)
        return None if lacks else trial

    def run(self, config: Config, stop: Stop | None = None) -> SearchTrial:
        """Train, measure and store. Raises DataError, CorankError.

        Args:
            config: of the trial.
            stop: receives the merit at each check, a few times in all, and may end the training.
        """
        packed, began = self.data.of(config), time.monotonic()
        epochs = plan_packed(config, packed).train.epochs_of(None)
        pruning = checks = None
        if stop is not None:
            networks = len(config.networks) if config.train.mode == "separate" else 1
            pruning = _Pruning(self.objective, stop, epochs * networks)
            parts = -(-CHECKS // epochs)
            checks = MidEpochChecks(parts, pruning.check) if parts > 1 else None
        measure, callbacks = partial(self._measure, packed), [pruning] if pruning else []
        try:
            done = train_trial(config, packed, self.data.base, measure, callbacks, checks)
        except PrunedError:
            trial = SearchTrial(None, True, [], 0, {}, time.monotonic() - began, {})
        else:
            trial = done.measured or SearchTrial(done.diverged, False, [], 0, {}, 0.0, {})
            trial = replace(trial, seconds=done.seconds)
        trial = replace(trial, interim=pruning.interim if pruning else [])
        self._files(config).save(config, asdict(trial))
        return trial

    def _measure(self, packed: PackedDataset, run: Run) -> SearchTrial:
        model, calibrators = run.model(packed)
        rows = predict_split(model, packed, "valid")
        figures = measure_validation(rows, run.config, calibrators, self.objective.name)
        self.objective.require_requests(figures)
        quotas: dict[str, list[Any]] = {}
        if self.by_quota:
            grid = quota_range(run.config, int(rows.requests.size.max()))
            values = values_by_quota(rows, run.config, calibrators, self.objective, grid)
            quotas = {"m": grid, "values": values}
        steps = run.trained(packed).facts["step"]
        return SearchTrial(None, False, [], steps, count_parameters(model), 0.0, figures, quotas)

    def _files(self, config: Config) -> TrialFiles:
        return TrialFiles(self.folder, self.data.of(config), FORMAT)


def quota_range(config: Config, largest: int) -> list[int]:
    """Quotas of the first stage, from what the next keeps to the largest request, its own among them."""
    first, second = config.stages[0], config.stages[1]
    even = np.geomspace(second.keep, max(second.keep, largest), QUOTAS).round().astype(int)
    return sorted({*(int(quota) for quota in even), max(second.keep, min(first.keep, largest))})


def _trial(document: dict[str, Any]) -> SearchTrial:
    document["figures"] = {name: Figure(**figure) for name, figure in document["figures"].items()}
    return SearchTrial(**document)

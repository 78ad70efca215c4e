"""A trial of a study: one arm trained at one rate with one seed, evaluated, and its figures kept as JSON.

Weights are not kept. One that is on disk already is read instead of trained.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from corank.analysis.curves import quota_cpu_ms, quota_grid, sample_logged_requests
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.study.figures import measure_figures, study_rows, validation_score
from corank.analysis.trials.figure import Figure
from corank.analysis.trials.trial_files import TrialFiles
from corank.analysis.trials.trial_training import count_parameters, train_trial
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.evaluation.inputs import CascadeRows
from corank.evaluation.predict import Predictions, predict_split
from corank.evaluation.stage_order import read_truth
from corank.metrics.metric import METRICS
from corank.training.config import Config
from corank.training.run import Run

FORMAT = 1
RECALLS = ("agree_recall", "click_recall", "joint_click_recall", "joint_truth_recall", "truth_recall")
"""The metrics of a quota curve."""


@dataclass(frozen=True)
class TrialQuotaCurve:
    """Recall and CPU time by the quota of the first stage."""

    m: list[int]
    recalls: dict[str, list[float | None]]
    """Name of the recall → its value at each m."""
    cpu_ms: list[float] | None
    """CPU time of a request at each m in milliseconds; measured for seed 0 only."""


@dataclass(frozen=True)
class Trial:
    """One training of an arm and its figures."""

    rate: float
    seed: int
    diverged: str | None
    """Why training diverged; there are no figures then."""
    score: float | None
    """The validation figure by which the rate is chosen."""
    steps: int
    parameters: dict[str, int]
    seconds: float
    whole: bool
    """Whether it was also evaluated with the ranker first, and by quota."""
    figures: dict[str, Figure]
    ranker_first: dict[str, Figure]
    """The figures if the last stage's scores also took the place of the first one's."""
    quota: TrialQuotaCurve | None


@dataclass(frozen=True)
class TrialStore:
    """The trials of one packed dataset, on disk."""

    folder: Path
    packed: PackedDataset
    base: Path
    """Relative paths of the config begin here."""

    def load(self, config: Config, whole: bool = False) -> Trial | None:
        """The stored trial of a config; None if there is none, or it is damaged or of another config."""
        document = self._files.load(config)
        try:
            trial = None if document is None else _trial(document)
        except (ValueError, KeyError, TypeError):
            return None
        return trial if trial is not None and (trial.whole or not whole) else None

    def run(self, config: Config, rate: float, seed: int, whole: bool = False) -> Trial:
        """Train, evaluate and store; `whole` also measures the quota curve. Raises DataError, CorankError."""
        done = train_trial(config, self.packed, self.base, lambda run: self._evaluate(run, rate, seed, whole))
        trial = done.measured or Trial(rate, seed, done.diverged, None, 0, {}, 0.0, whole, {}, {}, None)
        trial = replace(trial, seconds=done.seconds)
        self._files.save(config, asdict(trial))
        return trial

    @property
    def _files(self) -> TrialFiles:
        return TrialFiles(self.folder, self.packed, FORMAT)

    def _evaluate(self, run: Run, rate: float, seed: int, whole: bool) -> Trial:
        model, calibrators = run.model(self.packed)
        valid, test = (predict_split(model, self.packed, split) for split in ("valid", "test"))
        truth = read_truth(self.packed, "test")
        first, last = run.config.stages
        swapped = test.logits | {first.name: {first.main: test.logits[last.name][last.main]}}
        evaluated = EvaluatedRun(run, self.packed, model, calibrators, test, truth, {"split": "test"})
        return Trial(
            rate=rate,
            seed=seed,
            diverged=None,
            score=validation_score(valid, run.config, calibrators),
            steps=run.trained(self.packed).facts["step"],
            parameters=count_parameters(model),
            seconds=0.0,
            whole=whole,
            figures=measure_figures(test, run.config, truth, calibrators),
            ranker_first=measure_figures(_replaced(test, swapped), run.config, truth, calibrators)
            if whole
            else {},
            quota=_measure_quotas(evaluated, timed=seed == 0) if whole else None,
        )


def _trial(document: dict[str, Any]) -> Trial:
    for part in ("figures", "ranker_first"):
        document[part] = {name: Figure(**figure) for name, figure in document[part].items()}
    document["quota"] = document["quota"] and TrialQuotaCurve(**document["quota"])
    return Trial(**document)


def _replaced(predictions: Predictions, logits: dict[str, dict[str, Floats]]) -> Predictions:
    return replace(predictions, logits=logits)


def _measure_quotas(evaluated: EvaluatedRun, timed: bool) -> TrialQuotaCurve | None:
    """Recall of the first stage and of the cascade, and CPU time, by the quota of the first stage."""
    config = evaluated.run.config
    first, last = config.stages
    if evaluated.predictions.requests.size.max() <= last.keep:
        return None
    quotas = quota_grid(evaluated)
    rows = study_rows(evaluated.predictions, config, evaluated.truth, evaluated.calibrators)
    points = [
        _recalls(replace(rows, stages=[first.model_copy(update={"keep": m}), last]), config.data.levels)
        for m in quotas
    ]
    recalls = {name: [point[name] for point in points] for name in points[0]}
    return TrialQuotaCurve(
        quotas,
        recalls,
        quota_cpu_ms(evaluated, sample_logged_requests(evaluated), quotas).tolist() if timed else None,
    )


def _recalls(rows: CascadeRows, levels: Sequence[str]) -> dict[str, float | None]:
    """The recalls of `RECALLS` that the log defines."""
    inputs = {"cut": rows.cut_inputs(0), "cascade": rows.cascade_inputs(levels)}
    measures = {name: METRICS[name].measure(inputs[METRICS[name].population]) for name in RECALLS}
    return {name: measure.value() for name, measure in measures.items() if measure is not None}

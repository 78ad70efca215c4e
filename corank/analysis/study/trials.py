"""A trial of a study: one arm trained at one rate with one seed, judged, and its figures kept as JSON.

The weights are not kept. A trial is known by its config, its packed data and corank's version, so one that is there
already, whole and of just these, is read and not trained again; it is written in one go, so a kill costs one trial.

Letters: C candidates · B resamples of the users.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank import __version__, metrics
from corank.analysis.curves import sample_requests
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.latency import cpu_ms
from corank.analysis.study.arms import identity
from corank.core.calibration import Platt
from corank.core.errors import DivergedError
from corank.core.files import write_text
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.evaluation.evaluate import candidate_measures, exposed_measures, truth_of
from corank.evaluation.predict import Predictions, predict
from corank.evaluation.stage_order import Calibrators, Truth, order_of, true_value
from corank.metrics import Measure
from corank.models.joint import JointModel, Stage
from corank.serving.funnel.funnel import Funnel
from corank.training.config import Config
from corank.training.export import export
from corank.training.run import Run
from corank.training.train import train

FORMAT = 1
QUOTAS = 12
"""Points of a quota curve, about."""


@dataclass(frozen=True)
class Figure:
    value: float
    n: int
    """Rows, requests or users that count."""
    random: float | None
    """What a random order would have."""
    replicates: list[float | None]
    """The value in each resample of the users, the same in every trial: (B,)."""


@dataclass(frozen=True)
class Quota:
    """What the first stage's quota buys and costs."""

    m: list[int]
    recalls: dict[str, list[float | None]]
    """What is to come through → its recall at each m."""
    cpu_ms: list[float] | None
    """CPU time of a request at each m, of seed 0 alone: it is the same for all."""


@dataclass(frozen=True)
class Trial:
    rate: float
    seed: int
    diverged: str | None
    """What training broke off with; there are no figures then."""
    score: float | None
    """By which the rate is chosen: of validation clicks alone."""
    steps: int
    parameters: dict[str, int]
    seconds: float
    whole: bool
    """Whether it was also judged with the ranker first, and by quota."""
    figures: dict[str, Figure]
    ranker_first: dict[str, Figure]
    """The figures if the last stage's scores also took the place of the first one's."""
    quota: Quota | None


class Quiet:
    """A watcher that shows nothing."""

    def step(self, done: int, steps: int, losses: dict[str, float], candidates_per_second: float) -> None:
        pass

    def epoch(self, epoch: int, figures: dict[str, float | None]) -> None:
        pass


@dataclass(frozen=True)
class Bench:
    """Where the trials of one packing are kept."""

    folder: Path
    packed: PackedDataset
    base: Path
    """Relative paths of the config begin here."""

    def held(self, config: Config, whole: bool = False) -> Trial | None:
        """The trial of a config if it is there; one that is damaged, or of anything else, is not."""
        try:
            held = json.loads(self._path(config).read_text(encoding="utf-8"))
            if held.pop("identity") != self._identity(config):
                return None
            trial = _trial(held)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return trial if trial.whole or not whole else None

    def run(self, config: Config, rate: float, seed: int, whole: bool = False) -> Trial:
        """Train and judge; `whole` measures the quota curve and its CPU time, too. Raises DataError, CorankError."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="corank") as folder:
            run = Run.create(Path(folder) / "run", config, self.base)
            try:
                train(run, self.packed, Quiet())
                trial = self._judged(run, rate, seed, began, whole)
            except DivergedError as error:
                why, seconds = str(error).rpartition("/run: ")[2], time.monotonic() - began
                trial = Trial(rate, seed, why, None, 0, {}, seconds, whole, {}, {}, None)
        held = {"identity": self._identity(config)} | asdict(trial)
        write_text(self._path(config), json.dumps(held, allow_nan=False))
        return trial

    def _judged(self, run: Run, rate: float, seed: int, began: float, whole: bool) -> Trial:
        model, calibrators = run.model(self.packed)
        seconds = time.monotonic() - began
        valid, test = (predict(model, self.packed, split) for split in ("valid", "test"))
        truth = truth_of(self.packed, "test")
        first, last = run.config.stages
        swapped = test.logits | {first.name: {first.main: test.logits[last.name][last.main]}}
        evaluated = EvaluatedRun(run, self.packed, model, calibrators, test, truth, {"split": "test"})
        return Trial(
            rate=rate,
            seed=seed,
            diverged=None,
            score=_score(valid, run.config, calibrators),
            steps=run.trained(self.packed).facts["step"],
            parameters=_parameters(model),
            seconds=seconds,
            whole=whole,
            figures=_figures(test, run.config, truth, calibrators),
            ranker_first=_figures(_replaced(test, swapped), run.config, truth, calibrators) if whole else {},
            quota=_quota(evaluated, timed=seed == 0) if whole else None,
        )

    def _identity(self, config: Config) -> str:
        said = [FORMAT, __version__, identity(config), self.packed.manifest.fingerprint, self.packed.codes]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]

    def _path(self, config: Config) -> Path:
        return self.folder / f"{self._identity(config)}.json"


def _trial(held: dict[str, Any]) -> Trial:
    for part in ("figures", "ranker_first"):
        held[part] = {name: Figure(**figure) for name, figure in held[part].items()}
    held["quota"] = held["quota"] and Quota(**held["quota"])
    return Trial(**held)


def _replaced(predictions: Predictions, logits: dict[str, dict[str, Floats]]) -> Predictions:
    return replace(predictions, logits=logits)


def _parameters(model: JointModel) -> dict[str, int]:
    parts = {"tables": model.tables, **model.networks}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def _score(valid: Predictions, config: Config, calibrators: Calibrators) -> float | None:
    """Joint click recall if a validation request can lose a click, else the mean of the stages' AUC on exposed."""
    joint = _cascade(valid, config, None, calibrators)["joint_click_recall"]
    if joint is not None and joint.n:
        return joint.value()
    aucs = [
        exposed_measures(valid, stage.name, stage.main, Platt())["auc"].value() for stage in config.stages
    ]
    known = [auc for auc in aucs if auc is not None]
    return sum(known) / len(known) if known else None


def _figures(rows: Predictions, config: Config, truth: Truth, calibrators: Calibrators) -> dict[str, Figure]:
    """Everything that is compared, those left out that the log does not define."""
    found: dict[str, Measure | None] = {}
    for role, stage in zip(("first", "last"), config.stages, strict=True):
        label = stage.main
        exposed = exposed_measures(rows, stage.name, label, Platt())
        found |= {f"{role}_{name}": exposed[name] for name in ("auc", "gauc")}
        cuts = [config.data.levels.index(level) for level in stage.cuts]
        everywhere = candidate_measures(rows, stage.name, label, cuts, truth.get(label))
        found[f"{role}_candidates_auc"] = everywhere["auc"]
        if role == "first":
            found["first_cut_auc"] = everywhere["cut_auc"]
    found |= _cascade(rows, config, true_value(rows, config.stages[-1], truth), calibrators)
    return {name: figure for name, measure in found.items() if (figure := _figure(measure)) is not None}


def _figure(measure: Measure | None) -> Figure | None:
    value = None if measure is None else measure.value()
    if measure is None or value is None:
        return None
    replicates = [None if np.isnan(v) else float(v) for v in metrics.replicates(measure)]
    return Figure(
        value, measure.n, measure.chance() if isinstance(measure, metrics.Ratio) else None, replicates
    )


def _references(
    rows: Predictions, last: Stage, truth: Floats | None, order: NDArray[np.floating]
) -> dict[str, NDArray[np.bool_]]:
    """The candidates that are to come through: clicked, truly best, and the last stage's own choice, each (C,)."""
    found = {"click": rows.labels[last.main] == 1}
    if truth is not None:
        found["truth"] = rows.requests.places(truth) < last.keep
    return found | {"agree": rows.requests.places(order) < last.keep}


def _cascade(
    rows: Predictions, config: Config, truth: Floats | None, calibrators: Calibrators
) -> dict[str, Measure | None]:
    """Recalls of the first stage's cut, and of the whole cascade."""
    first, last = config.stages
    scores = [order_of(rows, stage, calibrators[stage.name]) for stage in config.stages]
    places, requests = rows.requests.places(scores[0]), rows.requests
    found: dict[str, Measure | None] = {}
    for name, positives in _references(rows, last, truth, scores[-1]).items():
        found[f"{name}_recall"] = metrics.recall_of(requests, positives, places, first.keep)
        if name != "agree":
            found[f"joint_{name}_recall"] = metrics.joint_recall(
                requests, positives, scores, [first.keep], last.keep
            )
    return found


def _quota(evaluated: EvaluatedRun, timed: bool) -> Quota | None:
    """Recalls by the first stage's quota m, in its top m and at the end of the cascade, and CPU time by it."""
    config, rows = evaluated.run.config, evaluated.predictions
    first, last = config.stages
    largest = int(rows.requests.size.max())
    if largest <= last.keep:
        return None
    even = np.geomspace(last.keep, largest, QUOTAS).round().astype(int)
    quotas = sorted({*even.tolist(), min(first.keep, largest)})
    scores = [order_of(rows, stage, evaluated.calibrators[stage.name]) for stage in config.stages]
    references = _references(rows, last, evaluated.true_value(last), scores[-1])
    curve = metrics.quota_curve(rows.requests, references, rows.requests.places(scores[0]), quotas)
    recalls = {f"{name}_recall": [r.value() for r in curve.measures[name]] for name in references}
    for name in references.keys() - {"agree"}:
        recalls[f"joint_{name}_recall"] = [
            metrics.joint_recall(rows.requests, references[name], scores, [m], last.keep).value()
            for m in quotas
        ]
    recalls = dict(sorted(recalls.items()))
    if not timed:
        return Quota(quotas, recalls, None)
    with tempfile.TemporaryDirectory(prefix="corank") as folder:
        bundle = export(
            Path(folder) / "bundle", config, evaluated.packed, evaluated.model, evaluated.calibrators
        )
        cost = cpu_ms(Funnel(bundle), sample_requests(evaluated), first.name, quotas)
    return Quota(quotas, recalls, cost.tolist())


def replicates_of(trials: Sequence[Mapping[str, Figure]], metric: str) -> NDArray[np.float64]:
    """(S, B), NaN where a resample leaves the metric undefined."""
    return np.array([figures[metric].replicates for figures in trials], dtype=np.float64)

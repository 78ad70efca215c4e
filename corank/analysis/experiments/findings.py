"""Trials → the findings of a study: figures by arm, differences to the base with intervals, a verdict in words.

A trial is one arm trained at one rate with one seed and evaluated. Its figures are kept as JSON, its weights are not;
one that is on disk already is read instead of trained.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.experiments.arms import BASE, Arm, ArmSet
from corank.analysis.experiments.figures import (
    FEWEST_REQUESTS,
    SIGN_WORDS,
    Figure,
    format_difference,
    mean_figure,
    measure_figures,
    percentile_interval,
    plain_differences,
    rank_correlations,
    study_rows,
    titles,
    validation_score,
    verdict_sentence,
)
from corank.analysis.experiments.trials import TrialFiles, count_parameters, train_trial
from corank.analysis.report_figures import quota_cpu_ms, quota_grid, sample_logged_requests
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.inputs import CascadeRows
from corank.evaluation.predict import predict_split, read_truth
from corank.metrics.metric import METRICS
from corank.training.config.config import Config
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
        reordered = replace(test, logits=swapped)
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
            ranker_first=measure_figures(reordered, run.config, truth, calibrators) if whole else {},
            quota=_measure_quotas(evaluated, timed=seed == 0) if whole else None,
        )


def _trial(document: dict[str, Any]) -> Trial:
    for part in ("figures", "ranker_first"):
        document[part] = {name: Figure(**figure) for name, figure in document[part].items()}
    document["quota"] = document["quota"] and TrialQuotaCurve(**document["quota"])
    return Trial(**document)


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


@dataclass(frozen=True)
class ArmResult:
    """An arm with all its trials and the rate that was chosen."""

    arm: Arm
    sweep: list[Trial]
    rate: float | None
    """None if every rate diverged."""
    seeds: list[Trial]

    @property
    def trials(self) -> list[Trial]:
        """All trials, each once: seed 0 of the chosen rate belongs to the sweep."""
        return [*self.sweep, *self.seeds[1:]]

    @property
    def held(self) -> list[Mapping[str, Figure]]:
        """The figures of its seeds; none if it diverged."""
        return [trial.figures for trial in self.seeds if trial.figures]


QUESTIONS = {
    1: "What is the architecture?",
    2: "What is each stage for?",
    3: "Must the structures agree?",
    4: "Which settings matter?",
    5: "What is each stage's goal?",
    6: "What makes the stages consistent?",
    7: "Why not use the ranker as pre-ranker?",
    8: "What do towers lose?",
    9: "Which samples and losses help?",
}
VERDICT_METRICS = {1: ["last_auc"], 6: ["agree_recall"], 8: ["last_auc"], 9: ["first_candidates_auc"]}
"""Figures that decide a question, in addition to the end-to-end figure."""
END_TO_END = ("joint_truth_recall", "joint_click_recall")
OF_THE_END = (2, 5, 7)
"""Questions that the end-to-end figure alone answers."""
ENOUGH = 0.99
"""Share of the best recall at which a quota is called enough."""
RANKER_FIRST = "the ranker as pre-ranker"


def build_findings(
    config: Config, arm_sets: Mapping[int, ArmSet], results: Mapping[str, ArmResult]
) -> dict[str, Any]:
    """The parts `end`, `notes`, `metrics`, `random`, `arms` and `questions` of a study's document.

    Args:
        config: the config as written.
        arm_sets: question → its arms.
        results: identity of an arm → its result.
    """
    base, names = _base(results), titles(config)
    figures, end = base.held, _end(base)
    known = [name for name in names if figures and name in figures[0]]
    questions = {str(n): answer_question(config, n, arms, results) for n, arms in arm_sets.items()}
    return {
        "end": end or "first_auc",
        "notes": _limitations(config, base, end, names),
        "metrics": {name: names[name] for name in known},
        "random": {name: figures[0][name].random for name in known} if figures else {},
        "arms": _all_arms(arm_sets, results),
        "questions": questions,
    }


def answer_question(
    config: Config, number: int, arms: ArmSet, results: Mapping[str, ArmResult]
) -> dict[str, Any]:
    """Answer one question, all arms of which are among the results: `title`, `notes`, `verdict` and figures."""
    base, names = _base(results), titles(config)
    figures, end = base.held, _end(base)
    if not figures:
        answer = {"verdict": ["Cannot be answered: the config as written diverged at every rate."]}
    elif number not in OF_THE_END:
        shown = [end or "first_auc", *VERDICT_METRICS.get(number, [])]
        answer = _comparison_finding(arms, results, shown, names)
    elif end is None:
        answer = {"verdict": [f"Cannot be answered: {_nothing_cut(base)}"]}
    elif number == 2:
        answer = _rank_correlation_finding(arms, results, end, names)
    elif number == 5:
        answer = _quota_finding(config, base, end, names)
    else:
        answer = _ranker_first_finding(base, end, names)
    return {"title": QUESTIONS[number], "notes": _notes(arms), **answer}


def _base(results: Mapping[str, ArmResult]) -> ArmResult:
    """The config as written."""
    return next(result for result in results.values() if result.arm.name == BASE)


def _end(base: ArmResult) -> str | None:
    """The end-to-end metric: the first that rests on enough requests."""
    return next((name for name in END_TO_END if _count_cut(base, [name]) >= FEWEST_REQUESTS), None)


def _count_cut(base: ArmResult, names: Sequence[str] = END_TO_END) -> int:
    """The requests of the test split that can lose anything, as an end-to-end metric counts them."""
    return max(
        (figures[name].requests for figures in base.held for name in names if name in figures), default=0
    )


def _nothing_cut(base: ArmResult) -> str:
    """The reason why there is no end-to-end metric."""
    count = _count_cut(base)
    few = f"only {count} requests" if count else "no request"
    return (
        f"{few} of the test split {'have' if count else 'has'} more candidates than the stages keep and something to "
        f"lose, and {FEWEST_REQUESTS} are needed. Log what the stages cut, lower keep, or test on more of the log."
    )


def _limitations(config: Config, base: ArmResult, end: str | None, names: Mapping[str, str]) -> list[str]:
    """Limitations of the log or of the config, a sentence each."""
    sentences = []
    if end is None:
        sentences.append(
            f"Arms are compared by {names['first_auc']} in place of recalls: {_nothing_cut(base)}"
        )
    elif end != END_TO_END[0]:
        sentences.append(
            f"The log has no truth: arms are compared by {names[end]}. Only what was shown could be clicked, so it "
            "favours arms that choose as production did."
        )
    if config.data.level is None:
        sentences.append(
            "The log has no levels: where an arm needs unexposed negatives they are items of the catalogue."
        )
    if len(base.seeds) == 1:
        sentences.append(
            "One seed: intervals are over users alone, and two trainings differ by more than that."
        )
    steps = max((trial.steps for trial in base.trials), default=0)
    warm_up = max(loss.warm_up_steps for loss in config.losses)
    if 2 * warm_up > steps > 0:
        sentences.append(
            f"Distillation warms up over {warm_up} steps, and a training has {steps}: it is hardly felt. Lower "
            "warm_up or train.requests, or train on more."
        )
    return sentences


def _all_arms(arm_sets: Mapping[int, ArmSet], results: Mapping[str, ArmResult]) -> dict[str, Any]:
    """Figures by the name of the arm; an arm with several names is under each."""
    return {
        arm.name: _arm_figures(results[arm.identity])
        for arm in chain.from_iterable(arms.arms for arms in arm_sets.values())
    }


def _arm_figures(result: ArmResult) -> dict[str, Any]:
    trials = [trial for trial in result.seeds if trial.figures]
    return {
        "rate": result.rate,
        "scores": {f"{trial.rate:.4g}": trial.score for trial in result.sweep},
        "by_rate": {
            f"{trial.rate:.4g}": {name: figure.value for name, figure in trial.figures.items()}
            for trial in result.sweep
        },
        "diverged": [trial.diverged for trial in result.trials if trial.diverged],
        "parameters": trials[0].parameters if trials else None,
        "steps": trials[0].steps if trials else None,
        "seconds": sum(trial.seconds for trial in trials) / len(trials) if trials else None,
        "figures": {name: mean_figure(result.held, name) for name in (trials[0].figures if trials else {})},
    }


def _notes(arms: ArmSet) -> list[str]:
    same = [f"“{name}” comes out the same as “{other}”." for name, other in arms.same.items()]
    return same + [f"“{name}” cannot be built of this config: {why}." for name, why in arms.refused.items()]


def _comparison_finding(
    arms: ArmSet, results: Mapping[str, ArmResult], metrics: Sequence[str], names: Mapping[str, str]
) -> dict[str, Any]:
    """Difference of each arm to the config as written."""
    base, *others = (results[arm.identity] for arm in arms.arms)
    compared: dict[str, Any] = {}
    for arm, other in zip(arms.arms[1:], others, strict=True):
        pairs = [(a.figures, b.figures) for a, b in zip(other.seeds, base.seeds, strict=False)]
        pairs = [(one, two) for one, two in pairs if one and two]
        compared[arm.name] = plain_differences(pairs) if pairs else {}
    sentences = [verdict_sentence(compared, name, names[name]) for name in metrics]
    return {"verdict": [*filter(None, sentences)] or ["Nothing to compare."], "differences": compared}


def _rank_correlation_finding(
    arms: ArmSet, results: Mapping[str, ArmResult], end: str, names: Mapping[str, str]
) -> dict[str, Any]:
    """Rank correlation of each figure of one stage, or of its cut, with the end-to-end figure."""
    rows = [
        (family, trial.figures)
        for family, arm in enumerate(arms.arms)
        for trial in results[arm.identity].trials
        if trial.figures
    ]
    alone = [name for name in names if not name.startswith("joint_") and all(name in f for _, f in rows)]
    figures = {name: np.array([f[name].value for _, f in rows]) for name in alone}
    ends = np.array([f[end].value for _, f in rows])
    resampled = rank_correlations(figures, ends, np.array([family for family, _ in rows]))
    correlations = {name: percentile_interval(*one) for name, one in resampled.items()}
    if not correlations:
        return {"verdict": ["Cannot tell: the checkpoints do not differ."]}
    ranked = sorted(correlations, key=lambda name: -correlations[name].value)
    best = ranked[0]
    verdict = [
        f"Of the figures of a stage or of its cut, {names[best]} orders {len(rows)} checkpoints of "
        f"{len(arms.arms)} arms most as {names[end]} of {rows[0][1][end].requests:,} requests does: rank correlation "
        f"{format_difference(correlations[best]._asdict())}."
    ]
    if "first_auc" in correlations and best != "first_auc":
        (rho, one), (other_rho, other) = resampled[best], resampled["first_auc"]
        less = percentile_interval(rho - other_rho, one - other)
        verdict.append(
            f"{names['first_auc']} has {format_difference(correlations['first_auc']._asdict())}; the difference is "
            f"{format_difference(less._asdict())}: {SIGN_WORDS[less.sign]}."
        )
    return {
        "verdict": verdict,
        "correlations": {name: correlations[name]._asdict() for name in ranked},
        "checkpoints": {
            "arm": [arms.arms[family].name for family, _ in rows],
            end: ends.tolist(),
            **{name: values.tolist() for name, values in figures.items()},
        },
    }


def _quota_finding(config: Config, base: ArmResult, end: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Recall and CPU time by the first stage's quota."""
    curves = [trial.quota for trial in base.seeds if trial.quota is not None]
    m, keep = curves[0].m, config.stages[0].keep
    recalls = {name: _average([curve.recalls[name] for curve in curves]) for name in curves[0].recalls}
    cost = next(curve.cpu_ms for curve in curves if curve.cpu_ms is not None)
    known = [(quota, value) for quota, value in zip(m, recalls[end], strict=True) if value is not None]
    most, best = max(known, key=lambda point: point[1])
    enough = next(quota for quota, value in known if value >= ENOUGH * best)
    at = dict(zip(m, cost, strict=True))
    here = min(m, key=lambda quota: abs(quota - keep))
    return {
        "verdict": [
            f"Of {_count_cut(base, [end]):,} requests, what comes through the cascade is most, {best:.4f}, at m = "
            f"{most}, and within 1 % of that from m = {enough}; the config keeps {keep}.",
            f"CPU time of a request: {at[enough]:.2f} ms at m = {enough}, {at[here]:.2f} at {here}, {cost[-1]:.2f} at "
            f"{m[-1]}.",
        ],
        "quota": {"m": m, "keep": keep, "recalls": recalls, "cpu_ms": cost},
    }


def _average(curves: Iterable[Sequence[float | None]]) -> list[float | None]:
    """Mean over seeds by quota; None where the recall is undefined."""
    points = zip(*curves, strict=True)
    return [None if None in at else float(np.mean([v for v in at if v is not None])) for at in points]


def _ranker_first_finding(base: ArmResult, end: str, names: Mapping[str, str]) -> dict[str, Any]:
    """The same checkpoints with the ranker's scores in both stages, so that the ranker selects among all candidates."""
    trials = [trial for trial in base.seeds if trial.figures]
    differences = plain_differences([(trial.ranker_first, trial.figures) for trial in trials])
    figures = {
        name: float(np.mean([trial.ranker_first[name].value for trial in trials]))
        for name in trials[0].ranker_first
    }
    compared = {
        RANKER_FIRST: {name: one for name, one in differences.items() if not name.startswith("last_")}
    }
    metrics = [end, "first_candidates_auc", "first_auc"]
    sentences = [verdict_sentence(compared, name, names[name]) for name in metrics if name in differences]
    cost = [
        trial.quota.cpu_ms for trial in trials if trial.quota is not None and trial.quota.cpu_ms is not None
    ]
    sentences += [f"CPU time of a request if the ranker scores all candidates: {c[-1]:.2f} ms." for c in cost]
    return {"verdict": sentences, "differences": compared, "figures": figures}

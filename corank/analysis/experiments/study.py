"""A study: questions about joint training, answered for one config by training its arms.

Every arm has the same budget. Its learning rate is chosen by validation clicks at seed 0 among the same factors; then
the same number of seeds is trained at the chosen rate, with the config's epochs and batches. A finding has figures by
arm, differences to the base with intervals, and a verdict in words.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from corank.analysis.experiments import engine
from corank.analysis.experiments import figures as measuring
from corank.analysis.experiments.arms import BASE, Arm, ArmSet
from corank.analysis.experiments.engine import ArmResult, Trial
from corank.analysis.experiments.figures import FEWEST_REQUESTS, SIGN_WORDS, format_difference
from corank.analysis.experiments.question import Question, build_arms
from corank.analysis.experiments.search import quota_range, write_document
from corank.analysis.quota_costs import quota_cpu_ms
from corank.analysis.run_evaluation import Evaluation
from corank.core.files import write_text
from corank.core.reports import Progress
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.predict import predict_split
from corank.evaluation.predictions import require_split
from corank.training.config.config import Config
from corank.training.config.config_file import plain
from corank.training.run import Run

RECALLS = ("agree_recall", "click_recall", "joint_click_recall", "joint_truth_recall", "truth_recall")
"""The metrics of a quota curve."""


@dataclass(frozen=True)
class TestFigures(engine.Measurement):
    """Measures what a study compares, on the test split; the score by which rates are chosen is of the validation."""

    __test__ = False  # no test of pytest's
    kind = "test"

    whole: bool = False
    """Whether to measure with the ranker first, and by quota, too."""

    def measure(self, run: Run, config: Config, packed: PackedDataset, trial: Trial) -> Trial:
        """The trial with its figures."""
        model, calibrators = run.model(packed)
        valid, test = (predict_split(model, packed, split) for split in ("valid", "test"))
        evaluated = Evaluation(run, "test", packed, calibrators, test)
        truth = evaluated.truth
        trial = replace(
            trial,
            score=measuring.validation_score(valid, run.config, calibrators),
            parameters=engine.count_parameters(model),
            figures=measuring.measure_figures(test, run.config, truth, calibrators),
        )
        if not self.whole:
            return trial
        first, last = run.config.stages
        swapped = test.logits | {first.name: {first.main: test.logits[last.name][last.main]}}
        reordered = replace(test, logits=swapped)
        return replace(
            trial,
            ranker_first=measuring.measure_figures(reordered, run.config, truth, calibrators),
            quota=_measure_quotas(evaluated, timed=trial.seed == 0),
        )

    def suffices(self, trial: Trial) -> bool:
        """Whether a trial was measured with the ranker first, if that is asked for."""
        return bool(trial.ranker_first) or not self.whole


def _measure_quotas(evaluated: Evaluation, timed: bool) -> engine.QuotaCurve | None:
    """Recall of the first stage and of the cascade, and CPU time, by the quota of the first stage."""
    config = evaluated.run.config
    largest = int(evaluated.predictions.requests.size.max())
    if largest <= config.stages[-1].keep:
        return None
    quotas, recalls = quota_range(config, largest), dict[str, list[float | None]]()
    whole = measuring.study_rows(evaluated.predictions, config, evaluated.truth, evaluated.calibrators)
    for figures in measuring.measure_by_quota(whole, config, quotas, lambda name: _key(name) in RECALLS):
        for figure in figures:
            if figure.measure is not None:
                recalls.setdefault(_key(figure.name), []).append(figure.value)
    cpu_ms = quota_cpu_ms(evaluated, quotas) if timed else None
    return engine.QuotaCurve(quotas, recalls, None if cpu_ms is None else cpu_ms.tolist())


def _key(name: str) -> str:
    """The registered name of a metric, of its name for searches."""
    return name.rpartition(".")[2]


END_TO_END = ("joint_truth_recall", "joint_click_recall")
ENOUGH = 0.99
"""Share of the best recall at which a quota is called enough."""
RANKER_FIRST = "the ranker as pre-ranker"


def answer_question(
    config: Config, question: Question, arms: ArmSet, results: Mapping[str, ArmResult]
) -> dict[str, Any]:
    """Answer one question by the results of its arms: `title`, `notes`, `verdict` and figures."""
    base, names = results[arms.arms[0].identity], measuring.titles(config)
    end = _end(base)
    if not base.figures:
        answer = {"verdict": ["Cannot be answered: the config as written diverged at every rate."]}
    elif question.finding == "differences":
        metrics = dict.fromkeys([end or "first_auc", *question.metrics])
        answer = _comparison_finding(arms, results, metrics, names)
    elif end is None:
        answer = {"verdict": [f"Cannot be answered: {_nothing_cut(base)}"]}
    elif question.finding == "correlations":
        answer = _rank_correlation_finding(arms, results, end, names)
    elif question.finding == "quotas":
        answer = _quota_finding(config, base, end, names)
    else:
        answer = _ranker_first_finding(base, end, names)
    return {"title": question.title, "notes": arms.notes, **answer}


def _end(base: ArmResult) -> str | None:
    """The end-to-end metric: the first that rests on enough requests."""
    return next((name for name in END_TO_END if _count_cut(base, [name]) >= FEWEST_REQUESTS), None)


def _count_cut(base: ArmResult, names: Sequence[str] = END_TO_END) -> int:
    """The requests of the test split that can lose anything, as an end-to-end metric counts them."""
    return max(
        (figures[name].requests for figures in base.figures for name in names if name in figures), default=0
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
    steps = max((trial.steps for trial in base.trials), default=0)
    warm_up = max(loss.warm_up_steps for loss in config.losses)
    by_clicks = end not in (None, END_TO_END[0])
    sentences = {
        f"Arms are compared by {names['first_auc']} in place of recalls: {_nothing_cut(base)}": end is None,
        f"The log has no truth: arms are compared by {names.get(end or '')}. Only what was shown could be clicked, so "
        "it favours arms that choose as production did.": by_clicks,
        "The log has no levels: where an arm needs unexposed negatives they are items of the catalogue.": (
            config.data.level is None
        ),
        "One seed: intervals are over users alone, and two trainings differ by more than that.": (
            len(base.seeds) == 1
        ),
        f"Distillation warms up over {warm_up} steps, and a training has {steps}: it is hardly felt. Lower "
        "warm_up or train.requests, or train on more.": 2 * warm_up > steps > 0,
    }
    return [sentence for sentence, applies in sentences.items() if applies]


def _comparison_finding(
    arms: ArmSet, results: Mapping[str, ArmResult], metrics: Iterable[str], names: Mapping[str, str]
) -> dict[str, Any]:
    """Difference of each arm to the config as written."""
    base, *others = arms.arms
    compared = {arm.name: results[arm.identity].minus(results[base.identity]) for arm in others}
    verdict = _verdicts(compared, metrics, names) or ["Nothing to compare."]
    return {"verdict": verdict, "metrics": [*metrics], "arms": [*compared]}


def _verdicts(compared: Mapping[str, Any], metrics: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """A sentence for each metric that some arm has."""
    sentences = (measuring.verdict_sentence(compared, name, names[name]) for name in metrics)
    return [*filter(None, sentences)]


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
    figures = {name: np.array([f[name].value for _, f in rows]) for name in [*alone, end]}
    ends, family = figures.pop(end), [family for family, _ in rows]
    resampled = measuring.rank_correlations(figures, ends, np.array(family))
    correlations = {name: measuring.percentile_interval(*one) for name, one in resampled.items()}
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
        less = measuring.percentile_interval(rho - other_rho, one - other)
        verdict.append(
            f"{names['first_auc']} has {format_difference(correlations['first_auc']._asdict())}; the difference is "
            f"{format_difference(less._asdict())}: {SIGN_WORDS[less.sign]}."
        )
    return {
        "verdict": verdict,
        "correlations": {name: correlations[name]._asdict() for name in ranked},
        "checkpoints": {
            "arm": [arms.arms[n].name for n in family],
            end: ends.tolist(),
            **{name: values.tolist() for name, values in figures.items()},
        },
    }


def _quota_finding(config: Config, base: ArmResult, end: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Recall and CPU time by the first stage's quota."""
    curves = [trial.quota for trial in base.seeds if trial.quota is not None]
    m, keep = curves[0].m, config.stages[0].keep
    # NaN where a seed has no recall
    means = {n: np.mean(np.array([c.values[n] for c in curves], float), axis=0) for n in curves[0].values}
    recalls = {n: [None if np.isnan(v) else float(v) for v in mean] for n, mean in means.items()}
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


def _ranker_first_finding(base: ArmResult, end: str, names: Mapping[str, str]) -> dict[str, Any]:
    """The same checkpoints with the ranker's scores in both stages, so that the ranker selects among all candidates."""
    compared = {RANKER_FIRST: _ranker_first(base).minus(base)}
    metrics = [end, "first_candidates_auc", "first_auc"]
    sentences = _verdicts(compared, metrics, names)
    cost = [trial.quota.cpu_ms[-1] for trial in base.measured if trial.quota and trial.quota.cpu_ms]
    sentences += [f"CPU time of a request if the ranker scores all candidates: {ms:.2f} ms." for ms in cost]
    return {"verdict": sentences, "metrics": metrics, "arms": [RANKER_FIRST]}


def _ranker_first(base: ArmResult) -> ArmResult:
    """The checkpoints of the config as written with the ranker's scores in both stages."""
    seeds = [replace(trial, figures=trial.ranker_first) for trial in base.seeds]
    return replace(base, arm=Arm(RANKER_FIRST, base.arm.config), at_rates=[], seeds=seeds)


def _ranker_first_rows(base: ArmResult) -> list[dict[str, Any]]:
    """The figures with the ranker's scores in both stages, and their differences to the checkpoints as they are."""
    swapped = _ranker_first(base)
    of_first = {n: one for n, one in swapped.minus(base).items() if not n.startswith("last_")}
    differences = measuring.to_rows(RANKER_FIRST, "test", swapped.means[0], of_first, base=BASE)
    return swapped.rows("test") + differences


def run_study(
    config: Config,
    data: engine.TrialData,
    questions: Mapping[str, Question],
    budget: engine.Budget,
    progress: Progress,
) -> dict[str, Any]:
    """Answer questions by training arms, and return the document of the study.

    The folder of `data` gets config.json first, trials/ as they end, and study.json last. Trials that it holds already,
    of the same config and data, are not trained again.

    Raises ConfigError unless the config has two stages, towers and an MLP, DataError where a split is empty, and
    CorankError where the folder cannot be written.
    """
    packed, out = data.packed, data.folder
    for split in ("train", "valid", "test"):
        require_split(packed, split, "a study needs all three")
    arm_sets = build_arms(config, questions)
    # fails before anything is trained
    write_text(out / "config.json", json.dumps(plain(config), indent=1) + "\n")
    results, answers = _answer_questions(config, data, questions, arm_sets, budget, progress)
    base, names = next(iter(results.values())), measuring.titles(config)
    figures, end = base.figures[0] if base.figures else {}, _end(base)
    # an arm with several names is under each
    named = {
        arm.name: replace(results[arm.identity], arm=arm) for arms in arm_sets.values() for arm in arms.arms
    }
    rows = engine.stack_rows([*named.values()], "test", [base])
    if any(question.finding == "ranker_first" for question in questions.values()):
        rows += _ranker_first_rows(base)
    parts = {
        "users": len(np.unique(np.concatenate([shard.user for shard in packed.splits["test"]]))),
        "seeds": budget.seeds,
        "rates": list(budget.rates),
        "trials": sum(len(result.trials) for result in results.values()),
        "config": plain(config),
        "notes": _limitations(config, base, end, names),
        "titles": {name: title for name, title in names.items() if name in figures},
        "arms": {name: one.describe() for name, one in named.items()},
        "questions": {name: answers[name] for name in questions},
    }
    return write_document(data, "study", config.name, rows, "test", end or "first_auc", parts)


def _answer_questions(
    config: Config,
    data: engine.TrialData,
    questions: Mapping[str, Question],
    arm_sets: Mapping[str, ArmSet],
    budget: engine.Budget,
    progress: Progress,
) -> tuple[dict[str, ArmResult], dict[str, Any]]:
    """Train the arms of all questions, the config as written first, and answer each as soon as its arms are there.

    Returns the results by the identity of the arm, and the answers.
    """
    distinct = list({arm.identity: arm for arms in arm_sets.values() for arm in arms.arms}.values())
    whole = any(question.finding in ("quotas", "ranker_first") for question in questions.values())
    trials = engine.TrialProgress(len(distinct) * budget.trials + whole, data.report, progress)
    store = engine.TrialStore(data.folder / "trials", data, TestFigures())
    results, answers = dict[str, ArmResult](), dict[str, Any]()
    for arm in distinct:
        final = TestFigures(whole=True) if whole and arm.name == BASE else None
        results[arm.identity] = engine.train_arm(arm, store, budget, trials, final)
        for name, arms in arm_sets.items():
            if name not in answers and results.keys() >= {arm.identity for arm in arms.arms}:
                answers[name] = answer_question(config, questions[name], arms, results)
                said = " ".join(answers[name]["verdict"])
                data.report(f"question {name}, {answers[name]['title']}: {said}")
    return results, answers

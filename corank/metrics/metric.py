"""The table of metrics that evaluation, early stopping, reports and studies compute, by name.

A metric of the table is a formula on arrays with its population, its inputs, and which way is better. Formulas are in
the other files of this package. A plug-in adds a metric with `METRICS.add`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from corank.core.errors import PluginError
from corank.core.registry import Registry
from corank.core.settings import describe_unknown
from corank.metrics.cascade import (
    best_score_loss,
    click_recall,
    gain_ratio,
    joint_recall,
    kendall_tau,
    ndcg,
    overlap,
    recall,
    replaced_hit_rate,
    score_loss,
)
from corank.metrics.inputs import INPUTS, Inputs, Population
from corank.metrics.measure import Measure
from corank.metrics.point import auc, bias_regret, cut_auc, ece, gauc, gauc_user_day, logloss, pcoc, truth_auc
from corank.metrics.request_order import CUTS, hit_at, mrr, ndcg_at, request_auc

Direction = Literal["higher", "lower", "one"]


@dataclass(frozen=True)
class Metric:
    """A formula with its population, its inputs and its better direction.

    Example:
        METRICS.add(
            "hit_rate",
            Metric("hit_rate@{k}", hit_rate, ("requests", "clicked", "scores", "quotas", "k"), "cascade", "higher"),
        )
    """

    name: str
    """Its name in documents; `{k}` and `{m}` stand for the quotas of a `cut` or `cascade`."""
    formula: Callable[..., Measure]
    """Called with `inputs` in their order."""
    inputs: tuple[str, ...]
    """Names of `INPUTS` of its population."""
    population: Population
    better: Direction
    """The better value: the higher, the lower, or the one nearer to 1."""
    title: str | None = None
    """Its title in a study; by default the name."""
    validation: bool = False
    """Compute it after every epoch of training, on exposed validation rows, so that early stopping may use it."""
    study: Literal["first", "both"] | None = None
    """The stages that a study compares by it; a `cut` or a `cascade` counts as the first stage's."""

    def name_of(self, inputs: Inputs) -> str:
        """Return its name with the quotas: `click_recall@{m}` becomes `click_recall@50` if m is 50."""
        return _fill(self.name, inputs)

    def title_of(self, inputs: Inputs) -> str:
        """Return its title with the quotas."""
        return _fill(self.title or self.name, inputs)

    def measure(self, inputs: Inputs) -> Measure | None:
        """Call the formula; None if an input is None. Raises PluginError if the result is no `Measure`."""
        values = [inputs[name] for name in self.inputs]
        if any(value is None for value in values):
            return None
        result = self.formula(*values)
        if not isinstance(result, Measure):
            raise PluginError(
                f"metric '{self.name}': its formula returned {type(result).__name__}; return a Measure, such as "
                "corank.metrics.measure.RatioMeasure"
            )
        return result

    def merit(self, value: float) -> float:
        """Turn a value into a number that is higher for better values."""
        match self.better:
            case "higher":
                return value
            case "lower":
                return -value
            case "one":
                return -abs(value - 1)


def _fill(template: str, inputs: Inputs) -> str:
    """Put quotas in place of `{k}` and `{m}`."""
    for key in {"k", "m"} & inputs.keys():
        template = template.replace(f"{{{key}}}", str(inputs[key]))
    return template


_TEMPLATE = re.compile(r"[a-z][a-z0-9_]*(@(\{[km]\}|[1-9][0-9]*))*")
_TAKEN = {"n", "eligible", "random", "stages"}
"""Keys next to metrics in the evaluation's document."""


def _check(what: str, metric: Any) -> None:
    """Raise PluginError if a metric breaks the protocol."""
    if not isinstance(metric, Metric):
        raise PluginError(f"{what} is no Metric; add corank.metrics.metric.Metric(name, formula, inputs, …)")
    if metric.population not in INPUTS:
        raise PluginError(f"{what}: {describe_unknown(metric.population, INPUTS, 'population')}")
    if metric.better not in get_args(Direction):
        raise PluginError(f"{what}: {describe_unknown(metric.better, get_args(Direction), 'direction')}")
    for name in metric.inputs:
        if name not in INPUTS[metric.population]:
            raise PluginError(
                f"{what}: {describe_unknown(name, INPUTS[metric.population], 'input')} (population {metric.population})"
            )
    if not _TEMPLATE.fullmatch(metric.name) or metric.name in _TAKEN:
        raise PluginError(
            f"{what}: its name is a word with quotas behind, such as hit_rate or hit_rate@{{k}}; "
            f"received {metric.name!r}"
        )
    if set(re.findall(r"{(.)}", metric.name)) - INPUTS[metric.population].keys():
        raise PluginError(
            f"{what}: {metric.population} has no quotas, so its name cannot hold {{k}} or {{m}}"
        )
    for other_name, other in METRICS.parts(load=False).items():
        if (_document_part(other), other.name) == (_document_part(metric), metric.name) and other != metric:
            raise PluginError(f"{what}: the name {metric.name!r} is taken by the metric '{other_name}'")
    if metric.study not in (None, "first", "both"):
        raise PluginError(f"{what}: study is 'first', 'both' or None; received {metric.study!r}")
    if metric.validation and (metric.population != "exposed" or "calibrated" in metric.inputs):
        raise PluginError(
            f"{what}: validation is of exposed candidates before calibration; set validation=False"
        )


def _document_part(metric: Metric) -> str:
    """The part of documents that holds it: figures of a cut are next to those of the whole cascade."""
    return "cascade" if metric.population == "cut" else metric.population


METRICS = Registry[Metric]("metric", "corank.metrics", "corank.metrics", _check)


def available(population: Population, inputs: Inputs) -> dict[str, Metric]:
    """Return the metrics of a population whose inputs are all given, even as None, by registered name."""
    return {
        name: metric
        for name, metric in METRICS.parts().items()
        if metric.population == population and inputs.keys() >= set(metric.inputs)
    }


def validation_metrics() -> dict[str, Metric]:
    """Return the metrics that training computes after every epoch, by their name in documents."""
    return {metric.name: metric for metric in METRICS.parts().values() if metric.validation}


_ORDER = ("user", "logit", "label", "weight")
_RAW = ("user", "probability", "label", "weight")
_CALIBRATED = ("user", "calibrated", "label", "weight")
_TRUTH = ("user", "logit", "truth", "weight")
_JOINT = ("scores", "quotas", "k")

METRICS.add(
    "auc", Metric("auc", auc, _ORDER, "exposed", "higher", "AUC, exposed", validation=True, study="both")
)
METRICS.add(
    "gauc", Metric("gauc", gauc, _ORDER, "exposed", "higher", "GAUC, exposed", validation=True, study="both")
)
_USER_DAY = ("user", "day", "logit", "label", "weight")
METRICS.add(
    "gauc_user_day",
    Metric(
        "gauc_user_day",
        gauc_user_day,
        _USER_DAY,
        "exposed",
        "higher",
        "GAUC by user and day, exposed",
        validation=True,
        study="both",
    ),
)
_LIST = ("user", "request", "logit", "label", "weight")
METRICS.add(
    "request_auc",
    Metric(
        "request_auc",
        request_auc,
        _LIST,
        "exposed",
        "higher",
        "AUC by request, exposed",
        validation=True,
        study="both",
    ),
)
METRICS.add("mrr", Metric("mrr", mrr, _LIST, "exposed", "higher", "MRR, exposed", validation=True))
for _k in CUTS:
    METRICS.add(
        f"ndcg_{_k}",
        Metric(
            f"ndcg@{_k}",
            partial(ndcg_at, k=_k),
            _LIST,
            "exposed",
            "higher",
            f"NDCG@{_k}, exposed",
            validation=True,
            study="both" if _k == max(CUTS) else None,
        ),
    )
for _k in CUTS:
    METRICS.add(
        f"hit_{_k}",
        Metric(
            f"hit@{_k}",
            partial(hit_at, k=_k),
            _LIST,
            "exposed",
            "higher",
            f"hit@{_k}, exposed",
            validation=True,
        ),
    )

METRICS.add("logloss", Metric("logloss", logloss, _RAW, "exposed", "lower", validation=True))
METRICS.add("logloss_calibrated", Metric("logloss_calibrated", logloss, _CALIBRATED, "exposed", "lower"))
METRICS.add("pcoc", Metric("pcoc", pcoc, _RAW, "exposed", "one"))
METRICS.add("pcoc_calibrated", Metric("pcoc_calibrated", pcoc, _CALIBRATED, "exposed", "one"))
METRICS.add("ece", Metric("ece", ece, _RAW, "exposed", "lower"))
METRICS.add("ece_calibrated", Metric("ece_calibrated", ece, _CALIBRATED, "exposed", "lower"))

METRICS.add(
    "candidates_auc", Metric("auc", truth_auc, _TRUTH, "candidates", "higher", "AUC, all", study="both")
)
_CUT_AUC = ("user", "logit", "level", "cuts", "weight")
METRICS.add("cut_auc", Metric("cut_auc", cut_auc, _CUT_AUC, "candidates", "higher", "cut AUC", study="first"))
_REGRET = ("user", "reference_logit", "logit", "truth", "weight")
METRICS.add("bias_regret", Metric("bias_regret", bias_regret, _REGRET, "candidates", "lower"))

METRICS.add(
    "click_recall",
    Metric(
        "click_recall@{m}", click_recall, ("requests", "label", "rank", "m"), "cut", "higher", study="first"
    ),
)
_AGREE = ("requests", "last_rank", "rank", "k", "m")
METRICS.add("agree_recall", Metric("agree_recall@{k}@{m}", recall, _AGREE, "cut", "higher", study="first"))
_TRUE = ("requests", "truth_rank", "rank", "k", "m")
METRICS.add("truth_recall", Metric("truth_recall@{k}@{m}", recall, _TRUE, "cut", "higher", study="first"))
METRICS.add(
    "overlap", Metric("overlap@{k}", overlap, ("requests", "rank", "last_rank", "k"), "cut", "higher")
)
_VALUE = ("requests", "last_value", "rank")
METRICS.add("score_loss", Metric("score_loss@{k}", score_loss, (*_VALUE, "k"), "cut", "lower"))
METRICS.add(
    "kendall_tau", Metric("kendall_tau", kendall_tau, ("requests", "score", "last_value"), "cut", "higher")
)
METRICS.add("best_score_loss", Metric("best_score_loss@{m}", best_score_loss, (*_VALUE, "m"), "cut", "lower"))
METRICS.add("gain_ratio", Metric("gain_ratio@{k}@{m}", gain_ratio, (*_VALUE, "k", "m"), "cut", "higher"))
METRICS.add("ndcg", Metric("ndcg@{k}", ndcg, ("requests", "last_rank", "rank", "k"), "cut", "higher"))
_REPLACED = ("requests", "scores", "quotas", "last_index", "score", "k")
METRICS.add("rcs", Metric("rcs@{k}", replaced_hit_rate, _REPLACED, "cut", "higher"))

METRICS.add(
    "joint_click_recall",
    Metric(
        "joint_click_recall@{k}",
        joint_recall,
        ("requests", "clicked", *_JOINT),
        "cascade",
        "higher",
        study="first",
    ),
)
METRICS.add(
    "joint_truth_recall",
    Metric(
        "joint_truth_recall@{k}@{k}",
        joint_recall,
        ("requests", "truth_top", *_JOINT),
        "cascade",
        "higher",
        study="first",
    ),
)
METRICS.add(
    "joint_kept_recall",
    Metric("joint_kept_recall@{k}", joint_recall, ("requests", "kept", *_JOINT), "cascade", "higher"),
)
_EARLIER = ("requests", "last_top", "earlier_scores", "earlier_quotas", "m")
METRICS.add(
    "joint_agree_recall", Metric("joint_agree_recall@{k}@{m}", joint_recall, _EARLIER, "cascade", "higher")
)

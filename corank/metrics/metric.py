"""The table of metrics that evaluation, early stopping, reports and studies compute, by name.

A metric of the table is a formula on arrays with its population, its inputs, and which way is better. Formulas are in
the other files of this package. A plug-in adds a metric with `METRICS.add`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, get_args

from corank.core.errors import PluginError
from corank.core.registry import Registry
from corank.core.settings import describe_unknown
from corank.core.types import Doubles
from corank.metrics.cascade import (
    best_score_loss,
    click_recall,
    gain_ratio,
    joint_recall,
    kendall_tau,
    ndcg,
    overlap,
    recall,
    recall_of,
    replaced_hit_rate,
    score_loss,
)
from corank.metrics.inputs import INPUTS, Inputs, Population
from corank.metrics.measure import Measure
from corank.metrics.point import auc, bias_regret, cut_auc, ece, gauc, gauc_user_day, logloss, pcoc, truth_auc
from corank.metrics.request_order import CUTS, hit_at, mrr, ndcg_at, request_auc

Direction = Literal["higher", "lower", "one"]

Merit = TypeVar("Merit", float, Doubles)


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
    """The rows on which it is computed."""
    better: Direction
    """The better value: the higher, the lower, or the one nearer to 1."""
    title: str | None = None
    """Its title in a study; by default the name."""
    validation: bool = False
    """Compute it after every epoch of training, on exposed validation rows, so that early stopping may use it."""
    study: Literal["first", "both"] | None = None
    """The stages that a study compares by it; a `cut` or a `cascade` counts as the first stage's."""
    about: str = ""
    """What it tells, where the docstring of its formula is of several metrics."""

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

    def merit(self, value: Merit) -> Merit:
        """Turn values into numbers that are higher for better values."""
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
    if not _TEMPLATE.fullmatch(metric.name):
        raise PluginError(
            f"{what}: its name is a word with quotas behind, such as hit_rate or hit_rate@{{k}}; "
            f"received {metric.name!r}"
        )
    if set(re.findall(r"{(.)}", metric.name)) - INPUTS[metric.population].keys():
        raise PluginError(
            f"{what}: {metric.population} has no quotas, so its name cannot hold {{k}} or {{m}}"
        )
    for other_name, other in METRICS.parts(load=False).items():
        if (other.population, other.name) == (metric.population, metric.name) and other != metric:
            raise PluginError(f"{what}: the name {metric.name!r} is taken by the metric '{other_name}'")
    if metric.study not in (None, "first", "both"):
        raise PluginError(f"{what}: study is 'first', 'both' or None; received {metric.study!r}")
    if metric.validation and (metric.population != "exposed" or "calibrated" in metric.inputs):
        raise PluginError(
            f"{what}: validation is of exposed candidates before calibration; set validation=False"
        )


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


def add_metric(
    population: Population,
    better: Direction,
    name: str,
    formula: Callable[..., Measure],
    inputs: tuple[str, ...],
    title: str | None = None,
    key: str | None = None,
    **settings: Any,
) -> None:
    """Add a metric to the table under its name without quotas, or a `key`; the rest as in `Metric`."""
    metric = Metric(name, formula, inputs, population, better, title, **settings)
    METRICS.add(key or name.partition("@{")[0].replace("@", "_"), metric)


_exposed = partial(add_metric, "exposed")
_ORDER = ("user", "logit", "label", "weight")
_DAY = ("user", "day", "logit", "label", "weight")
_LIST = ("user", "request", "logit", "label", "weight")
_RAW = ("user", "probability", "label", "weight")
_CALIBRATED = ("user", "calibrated", "label", "weight")
_BOTH: dict[str, Any] = {"validation": True, "study": "both"}
_SERVED = "With p after calibration: what a service returns."

_exposed("higher", "auc", auc, _ORDER, "AUC, exposed", **_BOTH)
_exposed("higher", "gauc", gauc, _ORDER, "GAUC, exposed", **_BOTH)
_exposed("higher", "gauc_user_day", gauc_user_day, _DAY, "GAUC by user and day, exposed", **_BOTH)
_exposed("higher", "request_auc", request_auc, _LIST, "AUC by request, exposed", **_BOTH)
_exposed("higher", "mrr", mrr, _LIST, "MRR, exposed", validation=True)
for _k in CUTS:
    _study = "both" if _k == max(CUTS) else None
    _ndcg, _title = partial(ndcg_at, k=_k), f"NDCG@{_k}, exposed"
    _exposed("higher", f"ndcg@{_k}", _ndcg, _LIST, _title, validation=True, study=_study)
for _k in CUTS:
    _exposed("higher", f"hit@{_k}", partial(hit_at, k=_k), _LIST, f"hit@{_k}, exposed", validation=True)
_exposed("lower", "logloss", logloss, _RAW, validation=True)
_exposed("lower", "logloss_calibrated", logloss, _CALIBRATED, about=_SERVED)
_exposed("one", "pcoc", pcoc, _RAW)
_exposed("one", "pcoc_calibrated", pcoc, _CALIBRATED, about=_SERVED)
_exposed("lower", "ece", ece, _RAW)
_exposed("lower", "ece_calibrated", ece, _CALIBRATED, about=_SERVED)

_candidates = partial(add_metric, "candidates")
_TRUTH = ("user", "logit", "truth", "weight")
_LEVEL = ("user", "logit", "level", "cuts", "weight")
_REGRET = ("user", "reference_logit", "logit", "truth", "weight")
_ALL = "Order on all candidates, also those that were never shown. Needs `data.truth`."
_SIMILAR = "Agreement with production, not quality: a better stage may have a lower one. Needs `cuts`."
_COST = "What the selection bias costs, if above 0. Needs a reference run and `data.truth`."
_candidates("higher", "auc", truth_auc, _TRUTH, "AUC, all", "candidates_auc", study="both", about=_ALL)
_candidates("higher", "cut_auc", cut_auc, _LEVEL, "cut AUC", study="first", about=_SIMILAR)
_candidates("lower", "bias_regret", bias_regret, _REGRET, about=_COST)

_cut = partial(add_metric, "cut")
_VALUE = ("requests", "last_value", "rank")
_REPLACED = ("requests", "scores", "quotas", "last_index", "score", "k")
_cut("higher", "click_recall@{m}", click_recall, ("requests", "label", "rank", "m"), study="first")
_AGREE = ("requests", "last_rank", "rank", "k", "m")
_KEPT_LAST = "Share of the last stage's top k in the stage's top m. Agreement is not quality."
_cut("higher", "agree_recall@{k}@{m}", recall, _AGREE, study="first", about=_KEPT_LAST)
_TRUE = ("requests", "truth_rank", "rank", "k", "m")
_KEPT_TRUE = "Share of the true top k in the stage's top m: the quality of the cut. Needs `data.truth`."
_cut("higher", "truth_recall@{k}@{m}", recall, _TRUE, study="first", about=_KEPT_TRUE)
_LATER = "Share of the later outcomes in the stage's top m: of the first label that is `known: everywhere`."
_cut("higher", "later_recall@{m}", recall_of, ("requests", "later", "rank", "m"), study="first", about=_LATER)
_cut("higher", "overlap@{k}", overlap, ("requests", "rank", "last_rank", "k"))
_cut("lower", "score_loss@{k}", score_loss, (*_VALUE, "k"))
_cut("higher", "kendall_tau", kendall_tau, ("requests", "score", "last_value"))
_cut("lower", "best_score_loss@{m}", best_score_loss, (*_VALUE, "m"))
_cut("higher", "gain_ratio@{k}@{m}", gain_ratio, (*_VALUE, "k", "m"))
_cut("higher", "ndcg@{k}", ndcg, ("requests", "last_rank", "rank", "k"))
_CONSISTENT = "Of what reaches the last stage: share of its top k that is in the stage's top k, too."
_cut("higher", "rcs@{k}", replaced_hit_rate, _REPLACED, about=_CONSISTENT)

_cascade = partial(add_metric, "cascade", "higher")
_JOINT = ("scores", "quotas", "k")
_EARLIER = ("requests", "last_top", "earlier_scores", "earlier_quotas", "m")
_CLICKED = "Share of a request's clicks in the cascade's top k."
_BEST = "Share of the true top k in the cascade's top k: the quality of all stages. Needs `data.truth`."
_ENDS = "Share of the later outcomes in the cascade's top k: of the first label that is `known: everywhere`."
_PRODUCTION = (
    "Share of what production's last stage kept in the cascade's top k. Production may have kept more than k, so it "
    "may not reach 1. Similarity to production, not quality. Needs levels and `cuts`."
)
_SURVIVES = (
    "Share of the last stage's top k that survives all cuts before it, with three or more stages; m is the last of "
    "these quotas."
)
_cascade(
    "joint_click_recall@{k}", joint_recall, ("requests", "clicked", *_JOINT), study="first", about=_CLICKED
)
_cascade(
    "joint_truth_recall@{k}@{k}", joint_recall, ("requests", "truth_top", *_JOINT), study="first", about=_BEST
)
_cascade("joint_later_recall@{k}", joint_recall, ("requests", "later", *_JOINT), about=_ENDS)
_cascade("joint_kept_recall@{k}", joint_recall, ("requests", "kept", *_JOINT), about=_PRODUCTION)
_cascade("joint_agree_recall@{k}@{m}", joint_recall, _EARLIER, about=_SURVIVES)

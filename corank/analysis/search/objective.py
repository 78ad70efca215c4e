"""The figures that arms of a search are compared by, all of the validation split, and the one that is searched for.

A figure is named as early stopping names it, `STAGE.LABEL.METRIC`, if it is of one label of a stage; `STAGE.METRIC` if
it is of what a stage keeps; `METRIC` if it is of the whole cascade, such as `joint_click_recall`. The last two kinds
have the registered name, without quotas, which may differ between arms.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from corank.analysis.trials.figure import FEWEST_REQUESTS, Figure, count_requests
from corank.core.errors import ConfigError, DataError
from corank.core.settings import describe_unknown
from corank.data.dataset import PackedDataset
from corank.evaluation.inputs import exposed_inputs
from corank.evaluation.measures import cascade_rows
from corank.evaluation.predict import Predictions
from corank.evaluation.stage_order import Calibrators
from corank.metrics.inputs import Inputs
from corank.metrics.metric import METRICS, Metric, available
from corank.models.settings.stage import StageSettings
from corank.training.config import Config

UNKNOWN = {"truth", "truth_rank", "truth_top", "reference_logit"}
"""Inputs that a choice must not read."""


@dataclass(frozen=True)
class Objective:
    """The figure that is searched for."""

    name: str
    metric: Metric
    stages: tuple[str, ...]
    """`STAGE.LABEL` of each stage with the label that it orders by."""

    @classmethod
    def of(cls, config: Config, name: str | None, packed: PackedDataset | None = None) -> "Objective":
        """The figure of a name. Raises ConfigError if there is no such figure.

        Without a name it is the last stage's GAUC, or its AUC where few users of `packed` have both classes. Of the
        figures that a log shows, GAUC of the last stage orders recipes most as the truth does; recalls of clicks order
        them by how closely they follow production (docs/results/defaults.md).
        """
        mains = tuple(f"{stage.name}.{stage.main}" for stage in config.stages)
        within_users = packed is None or _count_mixed_users(packed, config.stages[-1].main) >= FEWEST_REQUESTS
        known, name = figure_metrics(config), name or f"{mains[-1]}.{'gauc' if within_users else 'auc'}"
        if name not in known:
            raise ConfigError(f"--metric: {_describe_missing(name, known, config)}")
        return cls(name, known[name], mains)

    def require_bucket(self, packed: PackedDataset) -> None:
        """Raise DataError if the figure is of a random bucket, and validation has no request of it."""
        if "propensity" not in self.metric.inputs:
            return
        propensities = (shard.propensity for shard in packed.splits["valid"])
        if all(propensity is None or bool(np.isnan(propensity).all()) for propensity in propensities):
            raise DataError(
                f"--metric {self.name}: is of requests whose exposed candidates were drawn at random, and no candidate "
                f"of the split 'valid' has a propensity (column '{packed.data.propensity}'); change data.split, or "
                f"name another metric, such as {self.stages[-1]}.auc"
            )

    def require_requests(self, figures: Mapping[str, Figure]) -> None:
        """Raise DataError unless validation defines the figure, on enough requests for a verdict."""
        if self.name not in figures:
            raise DataError(
                f"--metric {self.name}: the validation split does not define it, as it has nothing that the metric "
                "compares, such as users or requests with positives and others; name another metric, such as "
                f"{self.stages[-1]}.auc"
            )
        if (requests := figures[self.name].requests) < FEWEST_REQUESTS:
            raise DataError(
                f"--metric {self.name}: rests on {requests} requests of the split 'valid', and a verdict needs "
                f"{FEWEST_REQUESTS}; give 'valid' more of the log (data.split), or name a metric of more requests"
            )

    def merit(self, value: float) -> float:
        """A number that is higher for the better of two values."""
        return self.metric.merit(value)

    def interim_merit(self, figures: Mapping[str, float | None]) -> float | None:
        """The merit of a training that has not ended: of its figure, or of the stages' mean AUC if it has none yet."""
        if self.name in figures:
            value = figures[self.name]
            return None if value is None else self.merit(value)
        aucs = [figures.get(f"{stage}.auc") for stage in self.stages]
        known = [auc for auc in aucs if auc is not None]
        return sum(known) / len(known) if len(known) == len(aucs) else None


def _count_mixed_users(packed: PackedDataset, label: str) -> int:
    """Users of the validation split who have the label as 1 and as 0."""
    seen: tuple[set[int], set[int]] = (set(), set())
    for shard in packed.splits["valid"]:
        users = np.repeat(shard.user, np.diff(shard.request_start))
        for value, having in enumerate(seen):
            having.update(np.unique(users[shard.labels[label] == value]).tolist())
    return len(seen[0] & seen[1])


def figure_metrics(config: Config) -> dict[str, Metric]:
    """Every figure that a config may be compared by, without those of the truth, or of a bucket that it has not."""
    metrics: dict[str, Metric] = {}
    unknown = UNKNOWN if config.data.propensity else UNKNOWN | {"propensity"}
    for metric_name, metric in METRICS.parts().items():
        if unknown & set(metric.inputs):
            continue
        match metric.population:
            case "exposed":
                names = [f"{s.name}.{label}.{metric.name}" for s in config.stages for label in s.labels]
            case "cut":
                names = [f"{stage.name}.{metric_name}" for stage in config.stages[:-1]]
            case "cascade" if len(config.stages) > 1:
                names = [metric_name]
            case _:
                names = []
        metrics |= dict.fromkeys(names, metric)
    return metrics


def _describe_missing(name: str, known: Collection[str], config: Config) -> str:
    """Say why a config cannot be compared by a metric."""
    metric = METRICS.parts().get(name.rpartition(".")[2])
    inputs = set() if metric is None else set(metric.inputs)
    if "propensity" in inputs and not config.data.propensity:
        return (
            f"'{name}' is of requests whose exposed candidates were drawn at random, and the log has no propensities; "
            "name their column as data.propensity, or another metric, such as joint_click_recall"
        )
    if inputs & UNKNOWN:
        return (
            f"'{name}' reads what a choice must not know, the truth or a reference; name another, such as "
            "joint_click_recall"
        )
    return describe_unknown(name, known, "metric")


def measure_validation(
    rows: Predictions, config: Config, calibrators: Calibrators, wanted: str
) -> dict[str, Figure]:
    """The figures that studies and early stopping use, and the wanted one, as far as the log defines them."""
    figures = {}
    for name, metric, inputs in _inputs(rows, config.stages, config.data.levels, calibrators):
        if metric.study or metric.validation or name == wanted:
            figure = Figure.of(metric, inputs)
            if figure is not None:
                figures[name] = figure
    return figures


def values_by_quota(
    rows: Predictions, config: Config, calibrators: Calibrators, objective: Objective, quotas: Sequence[int]
) -> list[float | None]:
    """The objective at each quota of the first stage; None where it is not defined, or rests on too few requests."""
    values = []
    for quota in quotas:
        stages = [config.stages[0].model_copy(update={"keep": quota}), *config.stages[1:]]
        each = _inputs(rows, stages, config.data.levels, calibrators)
        metric, inputs = next((metric, inputs) for name, metric, inputs in each if name == objective.name)
        measure = metric.measure(inputs)
        enough = measure is not None and count_requests(inputs, measure) >= FEWEST_REQUESTS
        values.append(measure.value() if measure is not None and enough else None)
    return values


def _inputs(
    rows: Predictions, stages: Sequence[StageSettings], levels: Sequence[str], calibrators: Calibrators
) -> Iterator[tuple[str, Metric, Inputs]]:
    """Each figure that has inputs: its name, its metric and its inputs."""
    exposed: Inputs
    for stage in stages:
        for label in stage.labels:
            exposed = exposed_inputs(rows, stage.name, label, calibrators[stage.name][label])
            for metric in available("exposed", exposed).values():
                yield f"{stage.name}.{label}.{metric.name}", metric, exposed
    if len(stages) == 1:
        return
    order = cascade_rows(rows, stages, calibrators, {})
    for n, stage in enumerate(stages[:-1]):
        for name, metric in available("cut", cut := order.cut_inputs(n)).items():
            yield f"{stage.name}.{name}", metric, cut
    for name, metric in available("cascade", whole := order.cascade_inputs(levels)).items():
        yield name, metric, whole

"""The figures that a study compares: metrics of the table that have `study`, by stage, of the cut and of the cascade.

A metric of one stage is named after the stage's side, such as `first_auc`; one of the cut or of the cascade keeps the
name that it has in the table, such as `agree_recall`.
"""

from collections.abc import Iterator
from dataclasses import replace

from corank.analysis.trials.figure import FEWEST_REQUESTS, Figure
from corank.evaluation.inputs import CascadeRows, candidate_inputs, exposed_inputs
from corank.evaluation.measures import cascade_rows
from corank.evaluation.predict import Predictions
from corank.evaluation.stage_order import Calibrators, Truth, order_scores
from corank.metrics.inputs import Inputs, Population
from corank.metrics.metric import METRICS, Metric, available
from corank.training.config import Config

SIDES = ("first", "last")
"""The two stages of a study, the first to cut and the last."""


def titles(config: Config) -> dict[str, str]:
    """Figure → its title for people, the cascade first; recalls have the names of `corank evaluate`."""
    first, last = config.stages
    quotas = {"k": last.keep, "m": first.keep}
    by_figure = {}
    for population in ("cascade", "cut"):
        for name, metric in METRICS.parts().items():
            if metric.population == population and metric.study:
                by_figure[name] = metric.title_of(quotas)
    for side, stage in zip(SIDES, config.stages, strict=True):
        for name, metric in METRICS.parts().items():
            if metric.population in ("exposed", "candidates") and _compares(metric, side):
                by_figure[f"{side}_{name}"] = f"{stage.name} {metric.title_of(quotas)}"
    return by_figure


def measure_figures(
    rows: Predictions, config: Config, truth: Truth, calibrators: Calibrators
) -> dict[str, Figure]:
    """Every figure of a trial that the log defines."""
    figures: dict[str, Figure | None] = {}
    for side, stage in zip(SIDES, config.stages, strict=True):
        calibrator = calibrators[stage.name][stage.main]
        cuts = [config.data.levels.index(level) for level in stage.cuts]
        everywhere = candidate_inputs(rows, stage.name, stage.main, calibrator, cuts, truth.get(stage.main))
        exposed = exposed_inputs(rows, stage.name, stage.main, calibrator)
        figures |= {f"{side}_{n}": Figure.of(m, exposed) for n, m in _compared("exposed", exposed, side)}
        figures |= {
            f"{side}_{n}": Figure.of(m, everywhere) for n, m in _compared("candidates", everywhere, side)
        }
    order = study_rows(rows, config, truth, calibrators)
    cut, cascade = order.cut_inputs(0), order.cascade_inputs(config.data.levels)
    figures |= {name: Figure.of(metric, cut) for name, metric in _compared("cut", cut)}
    figures |= {name: Figure.of(metric, cascade) for name, metric in _compared("cascade", cascade)}
    return {name: figure for name, figure in figures.items() if figure is not None}


def _compared(population: Population, inputs: Inputs, side: str = "first") -> Iterator[tuple[str, Metric]]:
    """The metrics of a population that a study compares the stage of a side by."""
    for name, metric in available(population, inputs).items():
        if _compares(metric, side):
            yield name, metric


def _compares(metric: Metric, side: str) -> bool:
    return metric.study == "both" or metric.study == side


def study_rows(rows: Predictions, config: Config, truth: Truth, calibrators: Calibrators) -> CascadeRows:
    """The rows as both stages order them, each by its logit where its value is a single label.

    The logit, so that a stage that has the logits of another orders exactly as that one.
    """
    scores = [order_scores(rows, stage, calibrators[stage.name]) for stage in config.stages]
    return replace(cascade_rows(rows, config.stages, calibrators, truth), scores=scores)


def validation_score(valid: Predictions, config: Config, calibrators: Calibrators) -> float | None:
    """Joint click recall if enough validation requests can lose a click, else the stages' mean AUC on exposed."""
    inputs = study_rows(valid, config, {}, calibrators).cascade_inputs(config.data.levels)
    joint = METRICS["joint_click_recall"].measure(inputs)
    if joint is not None and joint.n >= FEWEST_REQUESTS:
        return joint.value()
    exposed = [exposed_inputs(valid, stage.name, stage.main) for stage in config.stages]
    aucs = [measure.value() for one in exposed if (measure := METRICS["auc"].measure(one)) is not None]
    known = [auc for auc in aucs if auc is not None]
    return sum(known) / len(known) if known else None

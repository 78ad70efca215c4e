"""What benchmarks measure of a training: figures of the test split, those of a simulated world's truth among them."""

from collections.abc import Iterator
from dataclasses import replace

from corank.analysis.experiments.engine import Measurement, Trial, count_parameters
from corank.analysis.experiments.figures import FEWEST_REQUESTS, KeptFigure, keep_figures
from corank.analysis.run_evaluation import Evaluation, predict_packed
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.table import Figure
from corank.training.config.config import Config
from corank.training.run import Run

SIDES = ("first", "last")
"""Of the stages, the first to cut and the last: names of stages and labels differ from world to world."""


class SplitFigures(Measurement):
    """Figures of test, such as `first_auc`, `last_candidates_auc` or `joint_truth_recall`; validation chooses rates."""

    kind = "benchmark"

    def measure(self, run: Run, config: Config, packed: PackedDataset, trial: Trial) -> Trial:
        """The trial with its figures."""
        valid, test = (predict_packed(run, packed, split) for split in ("valid", "test"))
        return replace(
            trial,
            score=validation_score(keep_figures(_named(valid))),
            parameters=count_parameters(run.model(packed)[0]),
            figures=keep_figures(_named(test)),
        )


def _named(evaluated: Evaluation) -> Iterator[Figure]:
    """The figures of the stages' main labels by their side, and of cuts and cascade by their own names."""
    config = evaluated.run.config
    side = {(stage.name, stage.main): of for stage, of in zip(config.stages, SIDES, strict=True)}
    for figure in evaluated.figures:
        stage, label, population, *_ = figure.place
        if not label:
            yield replace(figure, name=figure.name.rpartition(".")[2])
        elif (stage, label) in side:
            of_all = "candidates_" if population == "candidates" else ""
            yield replace(figure, name=f"{side[stage, label]}_{of_all}{figure.metric.name}")


def validation_score(figures: dict[str, KeptFigure]) -> float | None:
    """Joint click recall if enough requests can lose a click, else the stages' mean AUC on exposed candidates."""
    joint = figures.get("joint_click_recall")
    if joint is not None and joint.requests >= FEWEST_REQUESTS:
        return joint.value
    aucs = [figures[f"{side}_auc"].value for side in SIDES if f"{side}_auc" in figures]
    return sum(aucs) / len(aucs) if aucs else None

"""Loss of a pre-ranker that learns from exposed candidates alone, and what restores it: four simulated worlds.

All arms have the same towers and training settings:
  alone            learns clicks of exposed candidates
  alone_shrunk     the same with the towers of `taught`
  ranker           the ranker, trained on exposed clicks, used as the pre-ranker
  frozen_teacher   as `negatives`, but the ranker is trained first and frozen
  imitate          learns production's two scores alone
  imitate_shrunk   the same with the towers of `taught`
  oracle           learns the truth of all candidates
  oracle_briefly   the same for four epochs at the default rates, as a reference of earlier figures
  negatives        joint with the ranker: clicks, cut candidates as hard negatives, distillation from the ranker
  joint            joint with the ranker and with a teacher that also sees production's scores
  taught           the same teacher, ended after an epoch; then the pre-ranker learns its scores of all candidates, its
                   items' ids left out of most rows, so that an item is first of all what its attributes say
  taught_by_id     as `taught`, but the ids always there, and the item tower as deep as that of other arms
  taught_briefly   as `taught_by_id`, at the rates and over the sample and epochs of `joint`, which trains together

Rates, epochs and shares were chosen in worlds of other seeds (LOG.md): few clicks want low rates and early stopping,
a dense target (oracle, imitate, taught) high rates and many epochs. `negatives` and `joint` have a weight, which is
chosen on validation clicks: the largest whose AUC on exposed candidates is within one standard error of the best. The
pre-ranker of every arm cuts for the same fixed ranker, that of `ranker`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.quality.arena import Arena, Figures, kept, spread, world
from benchmarks.quality.selection_bias_arms import (
    BRIEFER_EPOCHS,
    DENSE,
    DENSE_EPOCHS,
    KEEP,
    NEGATIVE_WEIGHTS,
    ORDER_WEIGHTS,
    OWN,
    RANKER,
    RANKER_CLICKS,
    TOP,
    TOWERS,
    alone,
    imitate,
    joint,
    oracle,
    settings,
    shrunk,
    taught,
    with_negatives,
)
from corank.core.types import Floats
from corank.evaluation.predict import predict_split
from corank.evaluation.predictions import Predictions, read_truth
from corank.metrics.cascade import joint_recall, recall
from corank.metrics.intervals import replicates
from corank.metrics.point import auc, truth_auc
from corank.models.joint import JointModel
from corank.training.device import keep_freed_memory

WORLDS = ("weak", "medium", "strong", "hidden")


def chosen(
    arena: Arena, weights: tuple[float, ...], arm: Callable[[Arena, float], JointModel]
) -> tuple[float, JointModel]:
    """The heaviest weight whose AUC on validation clicks is within one standard error of the best, and its model."""
    models = [arm(arena, weight) for weight in weights]
    exposed = {len(arena.packed.data.levels) - 1: None}
    measures = []
    for model in models:
        predictions = predict_split(model, arena.packed, "valid", exposed)
        z, label = predictions.logits["prerank"]["click"], predictions.labels["click"]
        measures.append(auc(predictions.requests.user_of(), z, label))
    values = [measure.value() or 0.0 for measure in measures]
    draws = [replicates(measure, seed=0) for measure in measures]
    best = int(np.argmax(values))
    for n in reversed(range(len(weights))):
        error = float(np.std(draws[best] - draws[n]))
        if values[best] - values[n] <= error:
            return weights[n], models[n]
    raise AssertionError("the best is within an error of itself")


class Judge:
    """Figures of a pre-ranker on the test day: all candidates, and through the fixed ranker."""

    def __init__(self, arena: Arena, ranker: JointModel) -> None:
        self.arena, self.truth = arena, read_truth(arena.packed, "test")["click"]
        self.fixed = predict_split(ranker, arena.packed, "test")

    def __call__(self, model: JointModel) -> Figures:
        predictions = predict_split(model, self.arena.packed, "test")
        return self.figures(predictions, predictions.logits["prerank"]["click"])

    def figures(self, predictions: Predictions, z: Floats) -> Figures:
        requests, rows = predictions.requests, predictions.exposed
        user, label = requests.user_of(), predictions.labels["click"]
        best, cut = requests.ranks(self.truth), requests.ranks(z)
        final = joint_recall(requests, best < TOP, [z, self.fixed.logits["rank"]["click"]], [KEEP], TOP)
        values = {
            f"truth_recall@{TOP}@{KEEP}": recall(requests, best, cut, TOP, KEEP).value(),
            f"final_recall@{TOP}": final.value(),
            "candidates_auc": truth_auc(user, z, self.truth).value(),
            "exposed_auc": auc(user[rows], z[rows], label[rows]).value(),
        }
        return {name: float(value or 0) for name, value in values.items()}


class Measured:
    """A world, made when a figure of it is missing, and the judge of its arms."""

    def __init__(self, folder: Path, preset: str, seed: int, requests: int, candidates: int) -> None:
        self.preset, self.made = preset, (folder, preset, seed, requests, candidates)

    @cached_property
    def arena(self) -> Arena:
        """The packed world."""
        return world(*self.made)

    @cached_property
    def judge(self) -> Judge:
        """The judge, whose fixed ranker is that of the arm `ranker`."""
        return Judge(self.arena, self.arena.trained("ranker", [RANKER], [RANKER_CLICKS], settings(3, "rank")))

    def model(self, arm: Callable[[Arena], JointModel]) -> Figures:
        """Train an arm and judge it."""
        return self.judge(arm(self.arena))

    def weighed(self, weights: tuple[float, ...], arm: Callable[[Arena, float], JointModel]) -> Figures:
        """Train an arm at the weight that validation chooses, and judge it."""
        weight, model = chosen(self.arena, weights, arm)
        return self.judge(model) | {"weight": weight}

    def of_ranker(self) -> Figures:
        """Judge the ranker as a pre-ranker."""
        return self.judge.figures(self.judge.fixed, self.judge.fixed.logits["rank"]["click"])


def measure(at: Measured, results: Path) -> dict[str, Figures]:
    """The figures of all arms in a world; those that `results` holds are not trained again."""
    figures: dict[str, Figures] = {}
    believed = shrunk(at.preset)
    arms: dict[str, Callable[[], Figures]] = {
        "alone": partial(at.model, lambda arena: alone(arena, TOWERS)),
        "alone_shrunk": partial(at.model, lambda arena: alone(arena, TOWERS | believed)),
        "ranker": at.of_ranker,
        "imitate": partial(at.model, lambda arena: imitate(arena, TOWERS, DENSE_EPOCHS)),
        "imitate_shrunk": partial(at.model, lambda arena: imitate(arena, TOWERS | believed, BRIEFER_EPOCHS)),
        "oracle": partial(at.model, lambda arena: oracle(arena, DENSE_EPOCHS, DENSE)),
        "oracle_briefly": partial(at.model, lambda arena: oracle(arena, 4, {})),
        "joint": partial(at.weighed, ORDER_WEIGHTS, joint),
        "taught": partial(at.model, lambda arena: taught(arena, OWN | believed, BRIEFER_EPOCHS, None, DENSE)),
        "taught_by_id": partial(at.model, lambda arena: taught(arena, OWN, DENSE_EPOCHS, None, DENSE)),
        "taught_briefly": partial(at.model, lambda arena: taught(arena, OWN, 2, 50, {})),
        "negatives": partial(at.weighed, NEGATIVE_WEIGHTS, with_negatives),
        "frozen_teacher": partial(
            at.model, lambda arena: with_negatives(arena, figures["negatives"]["weight"], frozen=True)
        ),
    }
    for name, arm in arms.items():
        figures |= kept(results / f"{name}.json", partial(_figures_by_name, name, arm))
    return figures


def _figures_by_name(name: str, arm: Callable[[], Figures]) -> dict[str, Figures]:
    return {name: arm()}


def summary(found: dict[str, list[dict[str, Figures]]]) -> dict[str, float]:
    """Means over seeds with intervals; and the share of the gap from `alone` to `oracle` that an arm closes."""
    figures: dict[str, float] = {}
    for preset, seeds in found.items():
        for arm in seeds[0]:
            for name in seeds[0][arm]:
                figures |= spread(f"{preset}.{arm}.{name}", [seed[arm][name] for seed in seeds])
        for short, name in (("recall", f"truth_recall@{TOP}@{KEEP}"), ("auc", "candidates_auc")):
            for arm in GAPS:
                for oracle_arm, suffix in (("oracle", ""), ("oracle_briefly", "_briefly")):
                    shares = [
                        (s[arm][name] - s["alone"][name]) / (s[oracle_arm][name] - s["alone"][name])
                        for s in seeds
                    ]
                    figures |= spread(f"{preset}.{arm}.{short}_gap_closed{suffix}", shares)
            for one, other in PAIRS:
                differences = [s[one][name] - s[other][name] for s in seeds]
                figures |= spread(f"{preset}.{one}-{other}.{short}", differences)
    return figures


GAPS = (
    *("taught", "taught_by_id", "joint", "taught_briefly", "negatives", "frozen_teacher"),
    *("imitate", "imitate_shrunk", "alone_shrunk"),
)
PAIRS = [
    *(
        ("taught", other)
        for other in ("alone", "ranker", "imitate", "imitate_shrunk", "taught_by_id", "joint")
    ),
    *(("joint", other) for other in ("alone", "taught_briefly", "frozen_teacher")),
]
AIMS = {
    "strong.taught.recall_gap_closed": (">=", 0.80),
    "hidden.taught.recall_gap_closed": (">=", 0.40),
    "medium.taught.recall_gap_closed": (">=", 0.35),
    "weak.taught-alone.recall": (">=", 0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--requests", type=int, default=8_000)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument(
        "--keep", type=Path, help="folder where finished arms are kept; a rerun goes on there"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    by_world: dict[str, list[dict[str, Figures]]] = {preset: [] for preset in arguments.worlds}
    with tempfile.TemporaryDirectory() as folder:
        results = arguments.keep or Path(folder) / "results"
        for seed in range(arguments.seeds):
            for preset in arguments.worlds:
                place = f"{preset}-{seed}-{arguments.requests}x{arguments.candidates}"
                size = arguments.requests, arguments.candidates
                at = Measured(Path(folder) / "world", preset, seed, *size)
                by_world[preset].append(measure(at, results / place))
                print(f"{preset}, seed {seed}: done", file=sys.stderr, flush=True)
    figures = summary(by_world)
    aims = {key: aim for key, aim in AIMS.items() if key in figures}
    harness.report("selection_bias", figures, aims, arguments.json)


if __name__ == "__main__":
    main()

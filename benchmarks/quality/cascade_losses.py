"""Joint Recall@10@20 of the losses of the whole cascade, on simulated logs in RecFlow's layout, all tuned alike.

Protocol: docs/lab/logs.md with two stages: 40 candidates a request, the towers keep 30, the ranker 20, and
10 are to be found; a random order finds half of them. All losses have the same towers, ranker, epochs and batches. The
learning rate and the temperature of each (of RankFlow, α in its place) are swept over the same grid on the validation
days of a world of its own; those that lead there are tried in another such world, and the best on the mean is held
for all seeds. Every seed is another world. Intervals are of the differences by seed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from itertools import product
from pathlib import Path

from benchmarks import harness
from benchmarks.quality.arena import Arena, Figures, Loss, kept, spread
from corank.data.packing.pack import pack_log
from corank.evaluation.predict import predict_split
from corank.metrics import cascade as joint
from corank.models.joint import JointModel
from corank.training.config.config_file import read
from corank.training.device import keep_freed_memory
from corank_lab.datasets.recflow import import_recflow
from corank_lab.datasets.recflow_world import RecFlowFiles

PRESET = "medium"
Setting = tuple[float, float]
"""Learning rate and temperature."""
STAGES = ("prerank", "rank")
LEVELS = ["prerank_neg", "coarse_neg", "rank_neg", "rank_pos"]
POSITIVE = LEVELS[-1]
RECALL = "joint_recall@10@20"
RATES = (0.003, 0.01)
TEMPERATURES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
ALPHAS = dict(zip(TEMPERATURES, (0.0, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0), strict=True))
"""RankFlow's α, which is at most 1, by the temperature in whose place it is."""
TUNING_WORLDS = 2
LEADING = 3
"""Settings of the grid that are tried in all of them."""
EPOCHS = 3


AIMS = {f"lcron.{RECALL}": (">=", 0.896), "lcron-best.high": (">=", 0.0)}
"""At least level with the best of the others: the interval of the difference reaches 0."""


def levels(kind: str = "levels", **more: object) -> list[Loss]:
    return [{"kind": kind, "stage": stage} | more for stage in STAGES]


def cascade(kind: str = "cascade", **more: object) -> list[Loss]:
    return [{"kind": kind, "positive": [POSITIVE], "top": 10} | more]


def icc(temperature: float) -> list[Loss]:
    """Cut at the stages' own quotas: its score is that of the cascade as it is."""
    return [{"kind": "icc", "positive": [POSITIVE], "temperature": temperature}]


def rankflow(temperature: float) -> list[Loss]:
    return [{"kind": "rankflow", "positive": [POSITIVE], "alpha": ALPHAS[temperature]}]


LOSSES: dict[str, Callable[..., list[Loss]]] = {
    "bce": partial(levels, "levels_bce"),
    "icc": icc,
    "rankflow": rankflow,
    "fs_lambda": partial(levels, form="lambda"),
    "lambda_deepest": partial(levels, form="lambda", gains=[0, 0, 0, 1]),
    "arf": partial(cascade, "arf"),
    "arf_learnt": partial(cascade, "learnt_cascade", form="arf"),
    "arf_v2": partial(cascade, "learnt_cascade", form="arf_v2"),
    "dftopk": partial(cascade, form="dftopk"),
    "lcron": partial(cascade, form="lcron"),
    "lcron_learnt": partial(cascade, "learnt_cascade", form="lcron"),
}


def world(folder: Path, seed: int, requests: int) -> Arena:
    """A simulated world in RecFlow's layout, imported and packed."""
    world = RecFlowFiles.model_validate(
        {"preset": PRESET, "seed": seed, "requests": requests, "candidates": 100}
    )
    world.simulate(folder / "world", overwrite=True)
    shutil.rmtree(folder / "tables", ignore_errors=True)
    import_recflow(folder / "world", folder / "tables")
    base = folder / "tables"
    config = read(base / "config.yaml")
    return Arena(base, config, pack_log(config.data, config.declared, base, base / "packed" / config.name))


def trained(arena: Arena, losses: list[Loss], rate: float, seed: int) -> JointModel:
    stages = [stage.model_dump(mode="json") for stage in arena.config.stages]
    settings = {"epochs": EPOCHS, "requests": 128, "seed": seed} | {stage: {"lr": rate} for stage in STAGES}
    return arena.trained("arm", stages, losses, settings)


def joint_recall(arena: Arena, model: JointModel, split: str) -> float:
    predictions = predict_split(model, arena.packed, split)
    scores = [predictions.logits[stage]["click"] for stage in STAGES]
    true = predictions.level == arena.config.data.levels.index(POSITIVE)
    first, last = (stage.keep for stage in arena.config.stages)
    return joint.joint_recall(predictions.requests, true, scores, [first], last).value() or 0.0


def validated(
    arena: Arena, loss: Callable[..., list[Loss]], settings: Sequence[Setting], seed: int
) -> Figures:
    """Joint recall on validation of a loss's settings, by `RATE,TEMPERATURE`."""
    recalls = {}
    for rate, temperature in settings:
        model = trained(arena, loss(temperature=temperature), rate, seed)
        recalls[f"{rate},{temperature}"] = joint_recall(arena, model, "valid")
    return recalls


def tuned(validate: Callable[[int, Sequence[Setting]], Figures]) -> Figures:
    """The rate and temperature of a loss that are best on validation.

    Args:
        validate: gives what `validated` finds in a tuning world of some number.
    """
    first = validate(0, list(product(RATES, TEMPERATURES)))
    leading = sorted(first, key=first.__getitem__, reverse=True)[:LEADING]
    settings = [
        (float(rate), float(temperature)) for rate, temperature in (key.split(",") for key in leading)
    ]
    worlds = [first, *(validate(n, settings) for n in range(1, TUNING_WORLDS))]
    means = {key: sum(world[key] for world in worlds) / TUNING_WORLDS for key in leading}
    best = max(means, key=means.__getitem__)
    rate, temperature = settings[leading.index(best)]
    return {"valid": means[best], "rate": rate, "temperature": temperature}


def measured(arena: Arena, loss: Callable[..., list[Loss]], chosen: Figures, seed: int) -> Figures:
    """Joint recall on test of a tuned loss, and the time of an epoch."""
    began = time.perf_counter()
    model = trained(arena, loss(temperature=chosen["temperature"]), chosen["rate"], seed)
    seconds = (time.perf_counter() - began) / EPOCHS
    return {RECALL: joint_recall(arena, model, "test"), "seconds_per_epoch": seconds}


def summary(seeds: list[dict[str, Figures]], settings: dict[str, Figures]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name in LOSSES:
        for figure in (RECALL, "seconds_per_epoch"):
            figures |= spread(f"{name}.{figure}", [seed[name][figure] for seed in seeds])
        figures |= {f"{name}.{key}": settings[name][key] for key in ("rate", "temperature")}
    rivals = [name for name in LOSSES if name != "lcron"]
    for name in rivals:
        figures |= spread(f"lcron-{name}", [seed["lcron"][RECALL] - seed[name][RECALL] for seed in seeds])
    best = max(rivals, key=lambda name: figures[f"{name}.{RECALL}"])
    figures["lcron-best.high"] = figures.get(f"lcron-{best}.high", figures[f"lcron-{best}"])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument(
        "--tuned-on", type=int, default=10_000, help="requests of each world on which rates are chosen"
    )
    parser.add_argument(
        "--keep", type=Path, help="folder where finished trainings are kept; a rerun goes on there"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        results = arguments.keep or Path(folder) / "results"
        size, tuned_on = arguments.requests, arguments.tuned_on
        # worlds of their own, so that no test request has been seen
        first_tuned = arguments.seeds

        @lru_cache(maxsize=1)
        def made(seed: int) -> Arena:
            return world(Path(folder) / "test", seed, size)

        @cache
        def tuning(n: int) -> Arena:
            return world(Path(folder) / f"tuning-{n}", first_tuned + n, tuned_on)

        def validate(name: str, n: int, settings: Sequence[Setting]) -> Figures:
            path = results / f"tuning-{name}-{first_tuned + n}-{tuned_on}.json"
            return kept(path, lambda: {name: validated(tuning(n), LOSSES[name], settings, seed=n)})[name]

        def measure(name: str, seed: int, chosen: Figures) -> Figures:
            path = results / f"{name}-{chosen['rate']}-{chosen['temperature']}-{seed}-{size}.json"
            return kept(path, lambda: {name: measured(made(seed), LOSSES[name], chosen, seed)})[name]

        settings: dict[str, Figures] = {}
        for name in LOSSES:
            settings[name] = tuned(partial(validate, name))
            print(f"{name}: {settings[name]}", file=sys.stderr, flush=True)
        seeds = []
        for seed in range(arguments.seeds):
            seeds.append({name: measure(name, seed, settings[name]) for name in LOSSES})
            print(f"seed {seed}: done", file=sys.stderr, flush=True)
    figures = summary(seeds, settings)
    harness.report("cascade_losses", figures, AIMS, arguments.json)


if __name__ == "__main__":
    main()

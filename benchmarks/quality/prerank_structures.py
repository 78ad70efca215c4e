"""Structures of a pre-ranker at equal widths: what each adds to a dot product, and what it costs for 1,000 candidates.

  dot      towers without biases, vectors of 32 numbers
  bias     towers with a bias of each side, within the 32 numbers
  mlp      `towers_mlp`: the two vectors and their product enter 32 hidden units
  heads    `towers_heads`: 4 heads of 8 numbers meet by the best item head
  generated  towers with biases that read what their side imagines the other's vector to be
  hit      `towers_heads` that do: the structure of HIT
  matches  towers with biases, and what counts of history and item are worth: categories, brands and tags of the
           simulated worlds, authors and tags of KuaiRand, in 8 buckets each
  full     `mlp`: one network over all features, without attention or cross layers; nothing is computed ahead

Worlds: `bilinear` (a user has one taste) and `interests` (three, of which the best counts) are simulated, and every
structure learns the truth of all candidates, so that nothing but the structure limits it. `kuairand`, if DIR is
given, has exposed candidates alone: clicks are learnt, and AUC is that of clicks on the test days. The difference from
`bias` is paired over seeds.

`us` is the time of a scorer for 1,000 candidates of one request, encoded, with item vectors at hand and 50 events in
the user's history, the tower of the query included. Times are those of the thread's processor, all taken in
turns of random order; a figure is the lowest decile of its rounds, which a loaded machine disturbs least. `best` of a
world is the structure with the most AUC above `dot` for a microsecond above it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.quality.arena import Arena, Figures, Loss, kept, packed_arena, spread, world
from benchmarks.quality.selection_bias_arms import ALL, CLICKS, KEEP, TOP, distill, settings
from corank.analysis.logged_request import logged_request
from corank.core.calibration import Platt
from corank.core.settings import validate
from corank.datasets.kuairand import import_kuairand
from corank.evaluation.predict import predict_split
from corank.evaluation.predictions import read_truth
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.funnel.stage_scorer import Candidates
from corank.metrics.cascade import recall
from corank.metrics.point import auc, truth_auc
from corank.training.config.config import Config
from corank.training.config.config_file import plain, read
from corank.training.device import keep_freed_memory
from corank.training.export import export_bundle
from corank.training.model_building import build_model
from corank.training.run import Run

HIDDEN, D = [128, 64], 32
SIDES = {"query": [*HIDDEN, D], "item": [*HIDDEN, D]}
HEADS = {"query": [*HIDDEN, D + 2], "item": [*HIDDEN, D + 2]}
STRUCTURES: dict[str, Loss] = {
    "dot": {"model": "towers", "bias": False} | SIDES,
    "bias": {"model": "towers"} | SIDES,
    "mlp": {"model": "towers_mlp", "hidden": 32} | SIDES,
    "heads": {"model": "towers_heads", "head": 8} | HEADS,
    "generated": {"model": "towers_generated", "generated": [32]} | SIDES,
    "hit": {"model": "towers_heads", "head": 8, "generated": [32]} | HEADS,
    "matches": {"model": "towers"} | SIDES,
    "full": {"model": "mlp", "hidden": [128, 64, 32]},
}
COUNTED = {
    "simulated": ("history", ["category", "brand", "tags"]),
    "kuairand": ("click_history", ["author_id", "tag"]),
}
"""By log the history, and the item features whose values are counted in it."""
WORLDS = {"bilinear": 1, "interests": 3}
CANDIDATES, EVENTS, ROUNDS = 1_000, 50, 300
KUAIRAND_CROSSES = ("video_tab", "author_tab")


def counts(log: str) -> dict[str, Loss]:
    """The features that `matches` names."""
    history, names = COUNTED[log]
    return {f"{n}_seen": {"kind": "count", "of": [f"{history}.{n}", n], "buckets": 8} for n in names}


def stage(structure: str, log: str) -> Loss:
    """The pre-ranker of a structure."""
    matches = {"matches": list(counts(log))} if structure == "matches" else {}
    return {"name": "prerank", "keep": KEEP, "value": "click"} | STRUCTURES[structure] | matches


def losses(structure: str, *first: Loss) -> list[Loss]:
    """What a structure learns: the loss of all, and what its generators learn of clicks."""
    mimic = {"kind": "mimic", "stage": "prerank"}
    return [*first, *([mimic] if "generated" in STRUCTURES[structure] else [])]


def judge(arena: Arena, structure: str, epochs: int, seed: int) -> Figures:
    """AUC and recall on all candidates of the test day, of a structure that learns their truth."""
    loss = distill("truth", ALL) | {"per_request": None}
    model = arena.trained(
        structure, [stage(structure, "simulated")], losses(structure, loss), settings(epochs) | {"seed": seed}
    )
    predictions, truth = predict_split(model, arena.packed, "test"), read_truth(arena.packed, "test")["click"]
    z, requests = predictions.logits["prerank"]["click"], predictions.requests
    best = recall(requests, requests.ranks(truth), requests.ranks(z), TOP, KEEP)
    area = truth_auc(requests.user_of(), z, truth)
    return {"candidates_auc": float(area.value() or 0), "truth_recall": float(best.value() or 0)}


def imported(source: Path, folder: Path) -> Arena:
    """KuaiRand, without crosses of query and item, which no towers read, to learn clicks from."""
    import_kuairand(source, folder)
    config = read(folder / "config.yaml")
    crosses = [name for name in config.features if name.startswith(KUAIRAND_CROSSES)]
    return packed_arena(folder, read(folder / "config.yaml", without=crosses), counts("kuairand"))


def judge_clicks(arena: Arena, structure: str, seed: int) -> Figures:
    """AUC of clicks on the test days, of a structure that learns clicks alone."""
    train = plain(arena.config)["train"] | {"seed": seed}
    part = stage(structure, "kuairand") | {"normalisation": "layer"}
    model = arena.trained(structure, [part], losses(structure, CLICKS), train)
    rows = predict_split(model, arena.packed, "test")
    user, z, label = rows.requests.user_of(), rows.logits["prerank"]["click"], rows.labels["click"]
    return {"candidates_auc": float(auc(user, z, label).value() or 0)}


def judged(
    make: Callable[[], Arena], judge_one: Callable[[Arena, str], Figures], path: Callable[[str], Path]
) -> dict[str, Figures]:
    """The figures of every structure in a world, which is made if some are not kept."""
    arena: list[Arena] = []  # made when the first is wanted

    def figures(name: str) -> Figures:
        arena[:] = arena or [make()]
        return judge_one(arena[0], name)

    return {
        name: kept(path(name), lambda name=name: {name: figures(name)})[name]  # type: ignore[misc]
        for name in STRUCTURES
    }


class Timed:
    """The scorers of one structure, over a bundle of a network that has not learnt."""

    def __init__(self, arena: Arena, name: str) -> None:
        arm = {
            "name": name,
            "stages": [stage(name, "simulated")],
            "losses": losses(name, CLICKS),
        }
        config = validate(Config, plain(arena.config) | arm, name)
        model = build_model(config, arena.packed)
        bundle = arena.folder / "bundles" / name
        funnel = Funnel(export_bundle(bundle, config, arena.packed, model, {"prerank": {"click": Platt()}}))
        logged = logged_request(Run(bundle, config, arena.folder), "test", 0, arena.packed)
        ids = [{"id": n} for n in range(CANDIDATES)]
        user = logged["user"] | {"history": [{"id": 7 * n, "time": 0} for n in range(EVENTS)]}
        batch = funnel.encode(Request.parse(logged | {"user": user, "candidates": ids}))
        self.scorer = funnel.scorer.stages["prerank"]
        self.candidates = Candidates(batch, batch.everyone, {})
        self.bytes = 4 * (funnel.manifest.stages[0].vector_width or 0)
        self.calls: dict[str, Callable[[], object]] = {f"{name}.us": self.score}

    def score(self) -> np.ndarray:
        """The scorer that serves the structure."""
        return self.scorer.score(Candidates(self.candidates.batch, self.candidates.alive, {}))


def microseconds(arena: Arena) -> Figures:
    """The time of every scorer and graph, all in turns, and the bytes that an item has ahead."""
    timed = {name: Timed(arena, name) for name in STRUCTURES}
    calls = {key: call for one in timed.values() for key, call in one.calls.items()}
    times: dict[str, list[float]] = {key: [] for key in calls}
    rng, names = np.random.default_rng(0), list(calls)
    for n in range(ROUNDS + 20):
        for key in rng.permutation(
            names
        ).tolist():  # so that none always follows a large one, which empties caches
            began = time.thread_time_ns()
            calls[key]()
            if n >= 20:
                times[key].append(time.thread_time_ns() - began)
    figures = {key: float(np.quantile(values, 0.1)) / 1e3 for key, values in times.items()}
    return figures | {f"{name}.bytes_per_item": float(one.bytes) for name, one in timed.items()}


def summary(found: dict[str, list[dict[str, Figures]]], speed: Figures) -> dict[str, harness.Figure]:
    """Means with intervals, differences from `bias` paired over seeds, and the best per microsecond."""
    figures: dict[str, harness.Figure] = dict(speed)
    for place, seeds in found.items():
        for name in STRUCTURES:
            for metric in seeds[0][name]:
                values = [seed[name][metric] for seed in seeds]
                figures |= spread(f"{place}.{name}.{metric}", values)
                if name != "bias":
                    paired = [seed[name][metric] - seed["bias"][metric] for seed in seeds]
                    figures |= spread(f"{place}.{name}-bias.{metric}", paired)
        gains = {
            name: (
                np.mean([seed[name]["candidates_auc"] - seed["dot"]["candidates_auc"] for seed in seeds])
                / max(speed[f"{name}.us"] - speed["dot.us"], 1.0)
            )
            for name in STRUCTURES
            if name != "dot"
        }
        best = max(gains, key=lambda name: gains[name])
        figures[f"{place}.best"] = best if gains[best] > 0 else "dot"
    return figures


def kept_at(results: Path, world: str, structure: str) -> Path:
    """Path of the figures of a structure in a world."""
    return results / f"{world}-{structure}.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="KuaiRand-Pure, to be a world, too"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4_000, help="of a simulated world")
    parser.add_argument("--epochs", type=int, default=3, help="in a simulated world")
    parser.add_argument(
        "--keep", type=Path, help="folder where finished worlds are kept; a rerun goes on there"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    by_world: dict[str, list[dict[str, Figures]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results = arguments.keep or folder / "results"
        size, epochs = arguments.requests, arguments.epochs
        imports = cache(partial(imported, arguments.folder, folder / "kuairand"))
        for seed in range(arguments.seeds):
            for name, interests in WORLDS.items():
                make = partial(
                    world, folder / name, "medium", seed, size, 200, interests, counts("simulated")
                )
                by = partial(judge, epochs=epochs, seed=seed)
                path = partial(kept_at, results, f"{name}-{seed}-{size}x{epochs}")
                by_world.setdefault(name, []).append(judged(make, by, path))
                print(f"{name}, seed {seed}: done", file=sys.stderr, flush=True)
            if arguments.folder:
                by, path = partial(judge_clicks, seed=seed), partial(kept_at, results, f"kuairand-{seed}")
                by_world.setdefault("kuairand", []).append(judged(imports, by, path))
                print(f"kuairand, seed {seed}: done", file=sys.stderr, flush=True)
        speed = microseconds(world(folder / "timed", "medium", 0, 300, 200, features=counts("simulated")))
    harness.report("prerank_structures", summary(by_world, speed), {}, arguments.json)


if __name__ == "__main__":
    main()

"""What an encoder of a user's events adds to attention where tastes drift, and what it costs in training.

A simulated world of 20 days whose tastes and contexts move by `walk` a day, in which candidates are exposed at random,
so that nothing but features and structure limits a ranker. Every user has some 40 requests. The history of clicks, as
of the request, is pooled (`history`), attended to (`din`), or encoded before, without and with the ages of its events
(`encoder`, `encoder_ages`). `auc` is the ranker's expected AUC of the true click probabilities of all candidates of the
last day. Arms are compared with `din` by world, with a 95 % interval over seeds. `times` is an arm's processor time in
training over that of `din`: of one thread, but other processes may have slowed either.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import harness
from benchmarks.quality.arena import Arena, Figures, kept, spread
from corank.core.settings import validate
from corank.data.packing.pack import pack_log
from corank.datasets.feed.simulate import simulate_world
from corank.evaluation.predict import predict_split
from corank.evaluation.predictions import read_truth
from corank.metrics.point import truth_auc
from corank.training.config.config import Config
from corank.training.config.config_file import plain, read

HISTORY = {"side": "user", "kind": "ids", "of": "item_id", "event": "click", "last": 50}
ATTENDED = {"history": "history", "attributes": ["category", "brand", "tags"]}
ARMS: dict[str, dict[str, Any] | None] = {
    "history": None,
    "din": ATTENDED,
    "encoder": ATTENDED | {"encoder": {}},
    "encoder_ages": ATTENDED | {"encoder": {"ages": True}},
}


def world(folder: Path, walk: float, seed: int, requests: int) -> Arena:
    """A packed world whose items stay for all days, with the history at the request."""
    simulate_world(
        folder, seed=seed, requests=requests, candidates=50, users=requests // 40, items=2_000, days=20, random=1.0,
        drift={"walk": walk, "lifetime": 40},
    )  # fmt: skip
    config = read(folder / "config.yaml")
    features = plain(config)["features"] | {"history": HISTORY}
    config = validate(Config, plain(config) | {"features": features}, "event_order")
    packed = pack_log(config.data, config.declared, folder, folder / "packed" / config.name)
    return Arena(folder, config, packed)


def judge(arena: Arena, arm: str, epochs: int, seed: int) -> Figures:
    """The AUC of a ranker, and the processor time of its training in seconds."""
    kind = "mlp_lab" if arm.startswith("encoder") else "mlp"
    stage = {"name": "rank", "model": kind, "keep": 10, "din": ARMS[arm]}
    settings = {"epochs": epochs, "requests": 64, "seed": seed}
    began = time.process_time()
    model = arena.trained(arm, [stage], [{"kind": "click", "stage": "rank"}], settings)
    seconds = time.process_time() - began
    predictions, truth = predict_split(model, arena.packed, "test"), read_truth(arena.packed, "test")["click"]
    area = truth_auc(predictions.requests.user_of(), predictions.logits["rank"]["click"], truth)
    return {"auc": float(area.value() or 0), "cpu_seconds": seconds}


def of_world(folder: Path, walk: float, seed: int, requests: int, epochs: int) -> dict[str, Figures]:
    """The figures of every arm in one world, and how long its histories are."""
    arena = world(folder, walk, seed, requests)
    figures = {arm: judge(arena, arm, epochs, seed) for arm in ARMS}
    lists = arena.packed.schema.row_features("query").lists.index("history")
    lengths = [shard.query.lists[lists].length for shard in arena.packed.splits["test"]]
    return figures | {"events": {"mean": float(np.concatenate(lengths).mean())}}


def summary(found: dict[str, list[dict[str, Figures]]]) -> dict[str, harness.Figure]:
    """Means over seeds, differences from `din` by world, and times."""
    figures: dict[str, harness.Figure] = {}
    for place, seeds in found.items():
        figures[f"{place}.events"] = fmean(seed["events"]["mean"] for seed in seeds)
        for arm in ARMS:
            figures |= spread(f"{place}.{arm}.auc", [seed[arm]["auc"] for seed in seeds])
            if arm != "din":
                paired = [seed[arm]["auc"] - seed["din"]["auc"] for seed in seeds]
                figures |= spread(f"{place}.{arm}-din.auc", paired)
                times = [seed[arm]["cpu_seconds"] / seed["din"]["cpu_seconds"] for seed in seeds]
                figures[f"{place}.{arm}.times"] = fmean(times)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--walk", type=float, nargs="+", default=[0.3], help="how far tastes move a day")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="folder where figures are kept; a rerun goes on there")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    by_world: dict[str, list[dict[str, Figures]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        keep = arguments.keep or Path(temporary) / "kept"
        for walk in arguments.walk:
            place = f"walk_{walk:g}"
            for seed in range(arguments.seeds):
                folder = Path(temporary) / f"{place}-{seed}"
                make = partial(of_world, folder, walk, seed, arguments.requests, arguments.epochs)
                by_world.setdefault(place, []).append(kept(keep / f"{place}-{seed}.json", make))
                say(place, by_world[place][-1])
    harness.report("event_order", summary(by_world), {}, arguments.json)


if __name__ == "__main__":
    main()

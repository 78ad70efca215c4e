"""Cost of each kind of feature, and of each option of a ranker, in a training step and online.

The world is simulated, with 200 candidates a request; `plain` has the columns of users, contexts and items. Every arm
adds one feature or one option and takes turns with `plain`, so that a machine that slows down slows both. `train` is
the additional time of a step of 128 requests with all their candidates, reading included, in percent of the plain step;
`times` is a step's time over that of the arm that it is a variant of.
`online` is the additional time of a request through the exported bundle, in microseconds; 50 of the 200 candidates
reach the ranker.
"""

import argparse
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import harness
from corank.analysis.logged_request import logged_request
from corank.batches.reader import Reader
from corank.core.calibration import Platt
from corank.core.settings import validate
from corank.data.dataset import PackedDataset
from corank.datasets.feed.simulate import simulate_world
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.config import Config
from corank.training.config_file import plain, read
from corank.training.device import device, keep_freed_memory, precision
from corank.training.export import export_bundle
from corank.training.optimisers import optimisers
from corank.training.preparation.packed_data import pack_config
from corank.training.run import Run, build_model

Plain = dict[str, Any]
REQUESTS = 128
LISTED = {
    "side": "user",
    "kind": "ids",
    "of": "item_id",
    "column": "clicked",
    "times": "clicked_at",
    "every": "1d",
}
LONGEST = 60
"""Events of a list in the log, at most, of which a history reads the last 50 before midnight."""
HISTORY = {"side": "user", "kind": "ids", "of": "item_id", "event": "click", "every": "1d"}
ITEM_PRIOR = {"kind": "prior", "by": ["item_id"], "label": "click"}
FEATURES: dict[str, Plain] = {
    "id, query": {"hour_id": {"side": "context", "kind": "id", "column": "hour"}},
    "id, item": {"brand_again": {"side": "item", "kind": "id", "column": "brand"}},
    "id, logged cross": {"clicks_id": {"side": "cross", "kind": "id", "column": "category_clicks"}},
    "ids, item": {"tags_again": {"side": "item", "kind": "ids", "column": "tags"}},
    "number, query": {"activity_again": {"side": "user", "kind": "number", "column": "activity"}},
    "number, logged cross": {"clicks": {"side": "cross", "kind": "number", "column": "category_clicks"}},
    "bucket, query": {"activity_bucket": {"side": "user", "kind": "bucket", "column": "activity"}},
    "history": {"history": HISTORY},
    "history of a list": {"history": LISTED},
    "history, half_life": {"history": HISTORY | {"half_life": "2d"}},
    "history, and its brand": {
        "history": HISTORY,
        "brands": {"side": "user", "kind": "ids", "of": "history.brand"},
    },
    "pair, query": {"city_tab": {"kind": "pair", "of": ["city", "tab"]}},
    "pair, cross": {"city_brand": {"kind": "pair", "of": ["city", "brand"]}},
    "product, cross": {"product": {"kind": "product", "of": ["activity", "price"]}},
    "ratio, cross": {"ratio": {"kind": "ratio", "of": ["price", "activity"]}},
    "history, and contains": {
        "history": HISTORY,
        "seen": {"kind": "contains", "of": ["history", "item_id"]},
    },
    "history, and count of its brand": {
        "history": HISTORY,
        "brand_seen": {"kind": "count", "of": ["history.brand", "brand"]},
    },
    "prior, item": {"item_ctr": ITEM_PRIOR},
    "prior, item, every 10m": {"item_ctr": ITEM_PRIOR | {"every": "10m"}},
    "prior, user": {"user_ctr": {"kind": "prior", "by": ["user_id"], "label": "click"}},
    "prior, cross": {"user_brand_ctr": {"kind": "prior", "by": ["user_id", "brand"], "label": "click"}},
}
VECTOR = {"side": "item", "kind": "vector", "column": "content", "dim": 128, "normalise": True}
VECTORS: dict[str, Plain] = {
    "vector of 128": {"content": VECTOR},
    "vector of 128, projected to 32": {"content": VECTOR | {"project": 32}},
    "history, vector of 128, and their cosine": {
        "history": HISTORY,
        "content": VECTOR | {"input": False},
        "content_like": {"kind": "cosine", "of": ["history.content", "content"]},
    },
}
MOST = {"prior, item": 8.0, "prior, item, every 10m": 8.0, "vector of 128": 10.0}
"""What an arm may add to a step, in percent."""
BESIDE = {
    "prior, item, every 10m": "prior, item",
    "history of a list": "history",
    "history, din and encoder": "history, and din",
}
"""Arms whose step is timed beside that of an arm before them."""
TIMES = 1.1
"""How many times the other's step a feature of `BESIDE` may take."""
RANKER: dict[str, tuple[Plain, Plain]] = {
    "history, and din": ({"history": HISTORY}, {"din": {"history": "history"}}),
    "history, and din with brand": (
        {"history": HISTORY},
        {"din": {"history": "history", "attributes": ["brand"]}},
    ),
    "history, din and encoder": (
        {"history": HISTORY},
        {"din": {"history": "history", "encoder": {"ages": True}}},
    ),
    "dcn, 2 layers": ({}, {"dcn": {"layers": 2}}),
    "dcn, 2 layers of rank 32": ({}, {"dcn": {"layers": 2, "rank": 32}}),
    "numbers by bins": ({}, {"numbers": {"kind": "piecewise"}}),
    "numbers by bins, embedded": ({}, {"numbers": {"kind": "piecewise", "dim": 8}}),
    "numbers by waves": ({}, {"numbers": {"kind": "periodic"}}),
    "gates": ({}, {"gates": {}}),
    "4 members": ({}, {"members": 4}),
    "8 members": ({}, {"members": 8}),
    "4 experts": ({}, {"experts": {}}),
    "8 experts": ({}, {"experts": {"shared": 8}}),
    "layer normalisation": ({}, {"normalisation": "layer"}),
    "prerank.score": ({}, {"from_stages": ["prerank.score"]}),
    "prerank.rank": ({}, {"from_stages": ["prerank.rank"]}),
}


def add_lists(folder: Path) -> None:
    """Add to each row of the log in a folder what the user had clicked before, as lists of items and times."""
    logs = {path: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    rows = pl.concat(logs.values())
    clicks = rows.filter(pl.col("is_click") == 1).sort("time").group_by("user_id").agg("item_id", "time")
    held = {user: (items, times) for user, items, times in clicks.iter_rows()}
    requests = rows.select("request_id", "user_id", "time").unique("request_id", maintain_order=True)
    lists: list[tuple[list[Any], list[Any]]] = []
    for _, user, when in requests.iter_rows():
        items, times = held.get(user, ([], []))
        seen = slice(max(0, bisect_left(times, when) - LONGEST), bisect_left(times, when))
        lists.append((items[seen], times[seen]))
    columns = zip(("clicked", "clicked_at"), zip(*lists, strict=True), ("item_id", "time"), strict=True)
    listed = requests.select("request_id").with_columns(
        pl.Series(name, values, dtype=pl.List(rows.schema[of])) for name, values, of in columns
    )
    for path, log in logs.items():
        log.join(listed, on="request_id", how="left", maintain_order="left").write_parquet(path)


def arms(config: Config) -> dict[str, Config]:
    base = plain(config)
    kept = {n: f for n, f in base["features"].items() if f["side"] != "cross" and not f.get("of")}
    losses = [loss for loss in base["losses"] if loss["kind"] == "click"]
    base |= {"features": kept, "losses": losses}
    found = {"plain": base}
    for name, features in (FEATURES | VECTORS).items():
        found[name] = base | {"features": kept | features}
    for name, (features, options) in RANKER.items():
        prerank, rank = base["stages"]
        found[name] = base | {"features": kept | features, "stages": [prerank, rank | options]}
    prerank, rank = base["stages"]
    user = [n for n, f in kept.items() if f["side"] == "user"]
    context = [n for n, f in kept.items() if f["side"] == "context"]
    towers = {"user": {"features": user}, "context": {"features": context, "widths": [64, 32]}}
    found["two query towers"] = base | {"stages": [prerank | {"query_towers": towers}, rank]}
    found["position"] = base | {"data": base["data"] | {"position": "position"}}
    return {
        name: validate(Config, value | {"name": f"arm-{n}"}, name)
        for n, (name, value) in enumerate(found.items())
    }


def stepper(config: Config, packed: PackedDataset) -> Iterator[None]:
    """Each `next` reads a batch and trains one step on all its candidates."""
    torch.manual_seed(0)
    model = build_model(config, packed).to(device())
    model.dtype = precision("auto", device())
    steps = optimisers(model, config.train.table, config.train.stages)
    total = config.total
    reader = Reader(packed, "train", REQUESTS, attended=model.attended, sees_ranks=model.sees_ranks)
    for epoch in range(10**6):
        for number, batch in enumerate(reader.read_shuffled(epoch)):
            loss, _ = total(model.outputs(batch.to(device()), total.reads()), batch, number)
            for optimiser in steps.values():
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            for optimiser in steps.values():
                optimiser.step()
            yield


class Arm:
    """A packed config, its training and its funnel."""

    def __init__(self, config: Config, base: Path) -> None:
        self.packed = pack_config(config, base)
        self.steps = stepper(config, self.packed)
        model = build_model(config, self.packed)
        calibrators = {stage.name: {label: Platt() for label in stage.labels} for stage in config.stages}
        self.funnel = Funnel(
            export_bundle(base / "bundles" / config.name, config, self.packed, model, calibrators)
        )
        run = Run(base / "none", config, base)
        self.requests = [Request.parse(logged_request(run, "test", n)) for n in range(0, 80, 10)]

    def step(self) -> None:
        next(self.steps)

    def rank(self) -> None:
        for request in self.requests:
            self.funnel.rank(msgspec.structs.replace(request, trace=False))


def seconds(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def in_turn(one: Callable[[], None], other: Callable[[], None], rounds: int) -> NDArray[np.float64]:
    """Seconds of both in each round; who goes first changes from round to round: (2, rounds)."""
    for _ in range(3):
        one()
        other()
    times = np.empty((2, rounds))
    for n in range(rounds):
        for which in (0, 1) if n % 2 else (1, 0):
            times[which, n] = seconds((one, other)[which])
    return times


def compared(arm: Arm, base: Arm, rounds: int) -> dict[str, float]:
    """Medians over rounds in which both take turns."""
    ours, plain_step = in_turn(arm.step, base.step, rounds)
    rank, plain_rank = in_turn(arm.rank, base.rank, rounds)
    a_request = (rank - plain_rank) / len(base.requests) * 1e6
    return {
        "train_percent": float(np.median(ours / plain_step) - 1) * 100,
        "online_us": float(np.median(a_request)),
    }


def add_vectors(items: Path) -> None:
    """Give every item a vector."""
    table = pl.read_parquet(items)
    drawn = np.random.default_rng(0).normal(size=(len(table), 128)).astype(np.float32)
    table.with_columns(pl.Series("content", drawn)).write_parquet(items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument(
        "--arms", nargs="+", metavar="ARM", help="which, by their names in the output; all if not given"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    keep_freed_memory()
    figures: dict[str, harness.Figure] = {"dtype": str(precision("auto", device()))}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate_world(folder, requests=4_000, candidates=200, overwrite=True)
        add_lists(folder / "log")
        add_vectors(folder / "items.parquet")
        found = arms(read(folder / "config.yaml"))
        plain_config = found.pop("plain")
        if unknown := set(arguments.arms or ()) - found.keys():
            parser.error(f"no arm {', '.join(sorted(unknown))}; there are {', '.join(found)}")
        base = Arm(plain_config, folder)
        base.rank()
        figures["plain.step_ms"] = float(
            np.median([seconds(base.step) for _ in range(arguments.rounds)]) * 1e3
        )
        ranked = [seconds(base.rank) / len(base.requests) for _ in range(arguments.rounds)]
        figures["plain.online_us"] = float(np.median(ranked) * 1e6)
        others: dict[str, Arm] = {}
        for name in arguments.arms or found:
            arm = Arm(found[name], folder)
            costs = compared(arm, base, arguments.rounds)
            if (other := others.get(BESIDE.get(name, ""))) is not None:
                costs["times"] = float(np.median(np.divide(*in_turn(arm.step, other.step, arguments.rounds))))
            if name in BESIDE.values():
                others[name] = arm
            say(f"{name}: " + "  ".join(f"{key} {value:.2f}" for key, value in costs.items()))
            figures |= {f"{name}.{key}": value for key, value in costs.items()}
    aims = {f"{name}.train_percent": ("<=", most) for name, most in MOST.items()}
    aims |= {f"{name}.times": ("<=", TIMES) for name in BESIDE if name in FEATURES}
    aims = {key: aim for key, aim in aims.items() if key in figures}
    harness.report("feature_cost", figures, aims, arguments.json)


if __name__ == "__main__":
    main()

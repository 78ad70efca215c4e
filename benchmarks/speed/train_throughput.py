"""Candidates a second of the joint training step, reading included; references: the per-row form and the floor.

One run measures all three in turn, so that a machine that slows down slows all. The floor is the step's own matrix
products, forward and backward, shape by shape, at the same dtype. With one thread, processor time counts.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks import harness
from corank.batches.ahead import move_batches
from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.features.input_layout import Layout
from corank.features.kinds.id import IdFeature
from corank.features.log_schema import DataSettings, Label
from corank.features.schema import Schema
from corank.features.split import TimeSplit
from corank.losses.base import FunnelSpec
from corank.losses.click import ClickLoss
from corank.losses.distill import DistillLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageOutput
from corank.training.config.settings import TableOptimiser
from corank.training.device import device, keep_freed_memory, precision
from corank.training.optimisers import optimisers
from tests.support.per_row_model import PerRowReader, per_row

ITEMS, CANDIDATES, DIM = 100_000, 50, 16
QUERY, ITEM, CROSS = 6, 4, 2
DAY = datetime(2026, 1, 1)
PRERANK = TowersSettings(name="prerank", model="towers", value="click", keep=20)
RANK = MlpSettings(name="rank", model="mlp", keep=10)
STAGES: list[TowersSettings | MlpSettings] = [PRERANK, RANK]
TOTAL = TotalLoss(
    [
        ClickLoss(kind="click", stage="rank"),
        ClickLoss(kind="click", stage="prerank"),
        DistillLoss(kind="distill", teacher="rank", student="prerank", on=["exposed"]),
    ],
    FunnelSpec(["exposed"], ["click"], {"prerank": ["click"], "rank": ["click"]}),
)
Product = tuple[int, int, int]


def packed_log(
    folder: Path, requests: int, candidates: int = CANDIDATES, levels: Sequence[str] = ()
) -> PackedDataset:
    """A log of `requests` requests: items zipf 1.1, ids of many sizes, candidates shared evenly among `levels`."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, ITEMS + 1) ** 1.1
    item = np.searchsorted(np.cumsum(popularity / popularity.sum()), rng.random(requests * candidates))
    request = np.repeat(np.arange(requests), candidates)
    place = np.tile(np.arange(candidates), requests)
    item = (np.minimum(item, ITEMS - 1) // candidates * candidates + place) % ITEMS  # distinct in a request
    log = pl.DataFrame(
        {
            "request": request,
            "item": item,
            "time": DAY,
            "click": (rng.random(len(item)) < 0.1).astype(np.int8),
        }
        | {f"q{n}": rng.integers(0, 100_000 // 10**n + 2, requests)[request] for n in range(QUERY)}
        | {f"x{n}": rng.integers(0, 200_000, len(item)) for n in range(CROSS)}
    )
    if levels:
        log = log.with_columns(level=pl.Series(levels).gather(place * len(levels) // candidates))
    ends = log.head(2 * candidates).with_columns(
        request=request[: 2 * candidates] + requests,
        time=pl.Series([DAY + timedelta(days=n) for n in (1, 2) for _ in range(candidates)]),
    )
    pl.concat([log.with_columns(pl.col("request", "time")), ends], how="vertical_relaxed").write_parquet(
        folder / "log.parquet"
    )
    items = {"item": np.arange(ITEMS)} | {
        f"i{n}": rng.integers(0, ITEMS // 10**n, ITEMS) for n in range(1, ITEM)
    }
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    features = {f"q{n}": IdFeature(side="user", kind="id", dim=DIM) for n in range(QUERY)}
    features |= {"item": IdFeature(side="item", kind="id", dim=DIM)}
    features |= {f"i{n}": IdFeature(side="item", kind="id", dim=DIM) for n in range(1, ITEM)}
    features |= {f"x{n}": IdFeature(side="cross", kind="id", dim=DIM) for n in range(CROSS)}
    data = DataSettings(
        log="log.parquet",
        items="items.parquet",
        request=["request"],
        user="q0",
        item="item",
        time="time",
        level="level" if levels else None,
        labels={"click": Label(column="click")},
        split=TimeSplit(valid=date(2026, 1, 2), test=date(2026, 1, 3)),
    )
    return pack_log(data, Schema(features), folder, folder / "packed")


def tower(rows: int, width: int, widths: list[int]) -> list[Product]:
    """The products of layers of these widths on inputs of `width`."""
    return [(rows, a, b) for a, b in zip([width, *widths], widths, strict=False)]


def products(requests: int, items: int, candidates: int) -> dict[str, list[Product]]:
    """(rows, in, out) of the layers in a step where towers run `requests` and `items` times, by part of the step."""
    query, item, hidden = PRERANK.query, PRERANK.item, RANK.hidden
    first = [(requests, QUERY * DIM, hidden[0]), (items, ITEM * DIM, hidden[0])]
    return {
        "towers": tower(requests, QUERY * DIM, query) + tower(items, ITEM * DIM, item),
        "first layer": [*first, (candidates, CROSS * DIM, hidden[0])],
        "layers above": tower(candidates, hidden[0], [*hidden[1:], 1]),
    }


def multiply_adds(layers: list[Product]) -> int:
    """Multiply-adds of a forward pass."""
    return sum(rows * a * b for rows, a, b in layers)


def floor(
    layers: list[Product], dtype: torch.dtype, on: torch.device, forward: bool = True, backward: bool = True
) -> Callable[[], None]:
    """All products of a step, x W, and g Wᵀ and gᵀ x of every layer; or those of one direction."""
    made = [
        (
            torch.randn(n, a, device=on).to(dtype),
            torch.randn(b, a, device=on).to(dtype),
            torch.randn(n, b, device=on).to(dtype),
        )
        for n, a, b in layers
    ]

    def run() -> None:
        for x, weight, gradient in made:
            if forward:
                torch.mm(x, weight.t())
            if backward:
                torch.mm(gradient, weight)
                torch.mm(gradient.t(), x)

    return run


def stepper(
    packed: PackedDataset,
    reader: Reader,
    forward: Callable[[JointModel, Batch], dict[str, StageOutput]],
    learn: TotalLoss = TOTAL,
    dtype: str = "auto",
) -> Iterator[int]:
    """Each `next` trains one step, its batch read while the one before computed; yields its candidates.

    `dtype` is that of `train.precision`.
    """
    torch.manual_seed(0)
    on = device()
    model = JointModel(STAGES, Layout(packed.schema, packed.encoders.sizes)).to(on)
    model.dtype = precision(dtype, on)
    steps, losses = optimisers(model, TableOptimiser(), {}), learn.of(None)
    for epoch in range(10**6):
        for number, batch in enumerate(move_batches(reader.read_shuffled(epoch), on, losses.prepare)):
            total, _ = losses(forward(model, batch), batch, number)
            for parameter in model.parameters():
                parameter.grad = None
            total.backward()
            for optimiser in steps.values():
                optimiser.step()
            yield len(batch)


def step_clock() -> Callable[[], float]:
    """Processor time where one thread computes, which other processes of the machine change less; else wall time."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def timed(run: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, on average."""
    began = clock()
    for _ in range(times):
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - began) / times


def measure(packed: PackedDataset, requests: int, rounds: int, steps: int) -> dict[str, float]:
    """Medians over interleaved rounds of the three, each round some steps long."""
    joint = stepper(packed, Reader(packed, "train", requests), lambda model, batch: model(batch))
    rows = stepper(packed, PerRowReader(packed, "train", requests), per_row)
    batch = next(iter(Reader(packed, "train", requests).read_ordered()))
    items, candidates = len(batch.numbers["item"]), len(batch)
    ours = [layer for part in products(requests, items, candidates).values() for layer in part]
    whole = tower(candidates, QUERY * DIM, PRERANK.query) + tower(candidates, ITEM * DIM, PRERANK.item)
    whole += tower(candidates, (QUERY + ITEM + CROSS) * DIM, [*RANK.hidden, 1])
    run_floor = floor(ours, precision("auto", device()), device())
    for warm in (lambda: next(joint), lambda: next(rows), run_floor):
        timed(warm, 3)
    clock = step_clock()
    seconds = np.array(
        [
            (
                timed(lambda: next(joint), steps, clock),
                timed(run_floor, steps, clock),
                timed(lambda: next(rows), max(1, steps // 3), clock),
            )
            for _ in range(rounds)
        ]
    )
    step, bound, row = np.median(seconds, axis=0)
    return {
        "candidates_per_second": candidates / step,
        "per_row_candidates_per_second": candidates / row,
        "floor_candidates_per_second": candidates / bound,
        "times_floor": float(np.median(seconds[:, 0] / seconds[:, 1])),
        "times_per_row": float(np.median(seconds[:, 2] / seconds[:, 0])),
        "arithmetic_ratio": multiply_adds(whole) / multiply_adds(ours),
        "distinct_share": items / candidates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 128, 1024])
    arguments = parser.parse_args()
    keep_freed_memory()
    figures: dict[str, harness.Figure] = {
        "threads": torch.get_num_threads(),
        "dtype": str(precision("auto", device())),
    }
    with tempfile.TemporaryDirectory() as folder:
        packed = packed_log(Path(folder), requests=24_576)
        for size in arguments.sizes:
            values = measure(packed, size, arguments.rounds, max(2, arguments.steps * 512 // size))
            figures |= {name if size == 512 else f"{name}@{size}": value for name, value in values.items()}
    aims = {"times_floor": ("<=", 1.4), "times_floor@1024": ("<=", 1.5), "times_per_row": (">=", 3.3)}
    harness.report(
        "train_throughput", figures, {k: a for k, a in aims.items() if k in figures}, arguments.json
    )


if __name__ == "__main__":
    main()

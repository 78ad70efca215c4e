"""Where the time of a joint training step goes: its parts, forward and backward, with one thread and with two.

The step of `train_throughput` is cut where its parts meet: each part computes from leaves, and its backward runs by
itself. All parts and the whole step take turns, and a figure is the median over rounds; with one thread processor time.
What the whole step takes beyond its parts is Python between them, autograd's bookkeeping and caches that another part
has filled. A step of one request costs what does not depend on the batch.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import harness
from benchmarks.speed.train_throughput import STAGES, TOTAL, floor, packed_log, products, step_clock, stepper
from corank.batches.ahead import move_batches
from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.data.packed.dataset import PackedDataset
from corank.features.encoding import PLACEMENTS
from corank.features.input_layout import Layout
from corank.models.joint import JointModel
from corank.models.mlp import Mlp
from corank.models.pairs import BatchPairs
from corank.models.stage_io import StageInputs, StageOutput
from corank.training.config.settings import TableOptimiser
from corank.training.device import device, keep_freed_memory, precision
from corank.training.optimisers import optimisers

FORWARD = ("look-ups", "towers", "first layer", "layers above", "losses")
PARTS = (
    "reading",
    *FORWARD,
    *(f"{name}, backward" for name in reversed(FORWARD)),
    "table updates",
    "optimiser",
)
READS_ROWS = ("embedding_bag", "index_select", "embedding")
"""Operations that read some rows of their first argument, by the second."""
MAKES_NOTHING = ("empty", "sparse")
"""Parts of the names of operations that move no numbers, besides views."""


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, each operation its arguments and its results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]
        if func.is_view or any(part in name for part in MAKES_NOTHING):
            return result
        if name.strip("_").startswith(READS_ROWS):
            index = next(arg for arg in args[1:] if isinstance(arg, Tensor))
            self.bytes += index.numel() * args[0].shape[1:].numel() * args[0].element_size() - size(args[0])
        written = [arg for arg, spec in zip(args, func._schema.arguments, strict=False) if _is_written(spec)]
        made = [] if any(map(_is_written, func._schema.returns)) else result
        self.bytes += size(args) + size(kwargs) + size(written) + size(made)
        return result


def _is_written(spec: Any) -> bool:
    return spec.alias_info is not None and spec.alias_info.is_write


def size(value: object) -> int:
    """Bytes of all tensors in nested tuples and mappings; one that repeats what it holds counts what it holds."""
    if isinstance(value, Tensor):
        return 0 if value.is_sparse else min(value.nbytes, value.untyped_storage().nbytes())
    if isinstance(value, Mapping):
        return sum(map(size, value.values()))
    return sum(map(size, value)) if isinstance(value, list | tuple) else 0


class Part:
    """A part of the forward pass: from inputs, as leaves, to outputs, and back."""

    def __init__(
        self, inputs: Sequence[Tensor], weights: Sequence[Tensor], run: Callable[..., Sequence[Tensor]]
    ) -> None:
        self.inputs = [x.detach().requires_grad_(x.requires_grad or x.is_floating_point()) for x in inputs]
        # copies, since a part may work in place
        self._given = [x.clone() for x in self.inputs]
        self._weights, self._run = list(weights), run
        self.outputs: Sequence[Tensor] = ()

    def forward(self) -> None:
        """Compute the outputs."""
        self.outputs = self._run(*self._given)

    def backward(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Compute the gradients of the inputs and of the weights, which are kept in these."""
        pairs = [(y, g) for y, g in zip(self.outputs, gradients, strict=True) if y.requires_grad]
        torch.autograd.backward(
            [y for y, _ in pairs], [torch.ones_like(y) if g is None else g for y, g in pairs]
        )
        return [x.grad for x in self.inputs]

    @property
    def least(self) -> tuple[int, int]:
        """Bytes that forward and backward must move if nothing between inputs and outputs leaves the cache."""
        read = size(self.inputs) + size(self._weights)
        return read + size(self.outputs), 2 * read + size(self.outputs)


class CutStep:
    """A step in parts."""

    def __init__(self, packed: PackedDataset, requests: int, dtype: str) -> None:
        torch.manual_seed(0)
        on = device()
        self.model = JointModel(STAGES, Layout(packed.schema, packed.encoders.sizes)).to(on)
        self.model.dtype = precision(dtype, on)
        self._steps = optimisers(self.model, TableOptimiser(), {})
        read = self._read(Reader(packed, "train", requests))
        self._batches = move_batches(read, on, TOTAL.of(None).prepare)
        self._number = 0

    def _read(self, reader: Reader) -> Iterator[Batch]:
        for epoch in range(10**6):
            yield from reader.read_shuffled(epoch)

    def run(self, around: Callable[[str, Callable[[], Any]], Any]) -> dict[str, int]:
        """Take one step, each part within `around`, which gets its name. Returns the bytes that each must move."""
        batch: Batch = around("reading", lambda: next(self._batches))
        for optimiser in self._steps.values():
            optimiser.zero_grad(set_to_none=True)
        parts = self._forward(batch, around)
        self._number += 1
        least = {}
        self._backward(parts, around)
        for name, part in parts.items():
            least[name], least[f"{name}, backward"] = part.least
        rows = [weight.grad._values() for weight in self.model.tables.parameters() if weight.grad is not None]
        lookups = batch.lookups.values()
        least["look-ups"] += sum(size(_rows(lookup.reads)) + 64 * _count(lookup) for lookup in lookups)
        least["look-ups, backward"] = size(parts["look-ups"].outputs) + size(rows)
        least["look-ups, backward"] += sum(size((look.back.row, look.back.start)) for look in lookups)
        least["table updates"] = sum(3 * size(values) + len(values) * 16 for values in rows)
        around("table updates", self._steps["table"].step)
        layers = [optimiser for name, optimiser in self._steps.items() if name != "table"]
        around("optimiser", lambda: [optimiser.step() for optimiser in layers])
        least["optimiser"] = 7 * size(self.model.layers(self.model.networks))
        return least

    def _forward(self, batch: Batch, around: Callable[[str, Callable[[], Any]], Any]) -> dict[str, Part]:
        prerank, rank = self.model.network("prerank"), cast(Mlp, self.model.network("rank"))
        pairs = BatchPairs(batch)
        parts: dict[str, Part] = {}

        def take(name: str, part: Part) -> Sequence[Tensor]:
            parts[name] = part
            around(name, part.forward)
            return part.outputs

        def look_up() -> Sequence[Tensor]:
            dense = self.model.inputs(batch)
            return [dense[placement] for placement in PLACEMENTS]

        def score(query: Tensor, item: Tensor) -> Sequence[Tensor]:
            empty = item.new_empty(0, 0)
            return [prerank(StageInputs(query, item, empty, empty, pairs)).cut(len(batch)).logits["click"]]

        def sum_first(query: Tensor, item: Tensor, snapshot: Tensor, cross: Tensor) -> Sequence[Tensor]:
            inputs = StageInputs(query, item, snapshot, cross, pairs)
            return [rank.sum_first(inputs, rank.pair_products(inputs))]

        def above(first: Tensor) -> Sequence[Tensor]:
            return [rank.above(first).cut(len(batch)).logits["click"]]

        def lose(prerank: Tensor, rank: Tensor) -> Sequence[Tensor]:
            outputs = {name: StageOutput({"click": z}) for name, z in (("prerank", prerank), ("rank", rank))}
            return [TOTAL(outputs, batch, self._number)[0]]

        dense = take("look-ups", Part([], [], look_up))
        (preranked,) = take("towers", Part(dense[:2], list(prerank.parameters()), score))
        first_weights = rank.first_weights()
        first = take("first layer", Part(dense, first_weights, sum_first))
        rest = [w for w in rank.parameters() if all(w is not known for known in first_weights)]
        (ranked,) = take("layers above", Part(first, rest, above))
        take("losses", Part([preranked, ranked], [], lose))
        return parts

    def _backward(self, parts: dict[str, Part], around: Callable[[str, Callable[[], Any]], Any]) -> None:
        def back(name: str, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
            found: list[Tensor | None] = around(f"{name}, backward", lambda: parts[name].backward(gradients))
            return found

        preranked, ranked = back("losses", [None])
        of_rank = back("first layer", back("layers above", [ranked]))
        of_towers = [*back("towers", [preranked]), None, None]
        both = [
            b if a is None else a if b is None else a + b for a, b in zip(of_towers, of_rank, strict=True)
        ]
        back("look-ups", both)


def _rows(reads: Mapping[Any, Any]) -> list[Tensor]:
    return [part for read in reads.values() for part in (read.row, read.start) if part is not None]


def _count(lookup: Any) -> int:
    return sum(len(read.row) for read in lookup.reads.values())


def measure(
    packed: PackedDataset, requests: int, dtype: str, rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of each part, of the whole step and of a step of one request; and of the products of each alone."""
    cut = CutStep(packed, requests, dtype)
    whole, smallest = (
        stepper(packed, Reader(packed, "train", size), lambda model, batch: model(batch), dtype=dtype)
        for size in (requests, 1)
    )
    batch = next(iter(Reader(packed, "train", requests).read_ordered()))
    on = device()
    floors = {
        f"{name}{', backward' * back}": floor(layers, precision(dtype, on), on, not back, back)
        for name, layers in products(requests, len(batch.numbers["item"]), len(batch)).items()
        for back in (False, True)
    }
    parts: list[dict[str, float]] = []
    alone: list[dict[str, float]] = []
    clock = step_clock()

    def clocked(into: dict[str, float], name: str, run: Callable[[], Any]) -> Any:
        began = clock()
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        into[name] = 1000 * (clock() - began)
        return result

    for _ in range(rounds + 2):
        parts.append({})
        alone.append({})
        cut.run(partial(clocked, parts[-1]))
        parts[-1]["all parts"] = sum(parts[-1].values())
        clocked(parts[-1], "whole step", partial(next, whole))
        clocked(parts[-1], "step of one request", partial(next, smallest))
        for name, run in floors.items():
            clocked(alone[-1], name, run)
        alone[-1]["whole step"] = sum(alone[-1].values())
    return _medians(parts[2:]), _medians(alone[2:])


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.median([one[name] for one in rounds])) for name in rounds[0]}


def traffic(packed: PackedDataset, requests: int, dtype: str) -> dict[str, tuple[float, float]]:
    """MB that the operations of each part move, and that it must move; of those that torch runs."""
    moved: dict[str, int] = {}

    def counted(name: str, run: Callable[[], Any]) -> Any:
        with Traffic() as mode:
            result = run()
        moved[name] = mode.bytes
        return result

    cut = CutStep(packed, requests, dtype)
    cut.run(counted)
    least = cut.run(counted)
    return {name: (moved[name] / 1e6, least[name] / 1e6) for name in PARTS if name in least}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    options = parser.parse_args()
    keep_freed_memory()
    figures: dict[str, harness.Figure] = {}
    console = Console(width=200)
    with tempfile.TemporaryDirectory() as folder:
        packed = packed_log(Path(folder), requests=24_576)
        for requests in options.sizes:
            columns: dict[str, dict[str, float]] = {}
            for dtype in options.dtypes:
                for threads in options.threads:
                    torch.set_num_threads(threads)
                    setting = f"{dtype}, {threads} thr."
                    columns[f"{setting}, ms"], columns[f"{setting}, products"] = measure(
                        packed, requests, dtype, options.rounds
                    )
                of_dtype = traffic(packed, requests, dtype)
                columns[f"{dtype}, moved MB"] = {name: moved for name, (moved, _) in of_dtype.items()}
                columns[f"{dtype}, must MB"] = {name: least for name, (_, least) in of_dtype.items()}
            figures |= {
                f"{name}@{requests}, {column}": value
                for column, values in columns.items()
                for name, value in values.items()
            }
            if not options.json:
                console.print(tabulate(requests, columns))
    if options.json:
        harness.report("step_parts", figures, {}, as_json=True)
    else:
        console.print(harness.machine(), highlight=False)


def tabulate(requests: int, columns: Mapping[str, Mapping[str, float]]) -> Table:
    """One row a part, one column a setting."""
    table = Table("part", title=f"a step of {requests:,} requests", title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    for name in dict.fromkeys(name for values in columns.values() for name in values):
        values = [columns[column].get(name) for column in columns]
        table.add_row(name, *("" if value is None else f"{value:.2f}" for value in values))
    return table


if __name__ == "__main__":
    main()

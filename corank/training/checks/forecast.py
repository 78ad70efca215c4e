"""Forecast of a training: steps, seconds and memory, by the work counted and the machine measured.

The work of the steps of a training, counted from the config and its log.

Letters: B requests of a batch · N candidates of a batch · I distinct items of a batch.

How fast this machine is, measured for a twentieth of a second by numpy.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from math import prod
from typing import Any, Self

import numpy as np

from corank.batches.sampling import SplitCounts
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.state import KEPT
from corank.features.input_layout import Layout
from corank.features.schema import PLACEMENTS, Placement, Schema
from corank.models.settings.network import FILLED, FirstLayer, NetworkSettings, Work
from corank.training.checks.log_profile import LogProfile
from corank.training.config.config import Config

JUDGED = 1024
"""Requests of a batch when a model is judged, as in `predict_split`."""
LISTED = 4
"""Values of any other list."""
CODES = 2
"""Further rows of a table: for a missing one and for an unknown one."""


def table_sizes(schema: Schema, values: Mapping[str, int], rows: int) -> dict[str, int]:
    """Rows of the table of each feature that owns one, at most.

    Args:
        schema: the features.
        values: distinct training values of columns, by feature, where they are known.
        rows: training candidates, which bound the values of what is made of several features.
    """
    sizes: dict[str, int] = {}
    for name, feature in schema.embedded().items():
        derived = feature.as_derived
        if (buckets := getattr(feature, "buckets", None)) is not None:
            count = buckets
        elif name in values or derived is None:
            count = values.get(name, 0)
        else:
            count = min(rows, prod(max(1, values.get(operand, 1)) for operand in derived.operands))
        sizes[name] = CODES + min(count, getattr(feature, "max_rows", None) or count)
    return {name: rows for name, rows in sizes.items() if schema.table_of(name) == name}


@dataclass(frozen=True)
class TrainingWork:
    """The work of a config's training on splits of some sizes."""

    config: Config
    layout: Layout
    splits: Mapping[str, SplitCounts]
    items: int
    """Distinct items of the training candidates."""

    @cached_property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-self.splits["train"].requests // self.config.train.batch_size)

    @property
    def learners(self) -> list[tuple[list[str | None], int]]:
        """Who learns in a step, one update each, and in how many epochs; None for all at once."""
        train = self.config.train
        names = [network.name for network in self.config.networks.values() if not network.fitted]
        match train.mode:
            case "joint":
                return [([None], train.epochs_of(None))]
            case "alternate":
                return [([*names], train.epochs_of(None))]
            case "separate":
                return [([name], train.epochs_of(name)) for name in names]

    def candidates(self, learners: Sequence[str | None]) -> float:
        """Those of a step: N."""
        read = max(self.splits["train"].rows(self.config.total.population(one)) for one in learners)
        return read / max(1, self.steps)

    def step(self, learners: Sequence[str | None]) -> Work:
        """The work of a step, its batch read once and each learner's networks computed."""
        batch, candidates = self.config.train.batch_size, self.candidates(learners)
        work = self._read(batch, candidates)
        for learner in learners:
            read = self.config.total.reads(learner)
            networks = [n for n in self.config.networks.values() if n.name in read and not n.fitted]
            for network in networks:
                work += self._network(network, batch, candidates)
            losses = len(self.config.total.select(learner))
            work += Work(40 * losses, 0, 10 * losses * candidates)
        return work

    def validation(self) -> tuple[Work, int]:
        """The work of a batch of the validation split, forward alone, and how many batches an epoch has."""
        if "valid" not in self.splits:
            return Work(0, 0, 0), 0
        split = self.splits["valid"]
        exposed = split.rows({len(split.sizes) - 1: None})
        batches = max(1, -(-split.requests // JUDGED))
        batch = split.requests / batches
        work = self._read(batch, exposed / batches)
        for network in self.config.networks.values():
            work += self._network(network, batch, exposed / batches)
        return work, batches

    def rows(self, batch: float, candidates: float) -> dict[Placement, float]:
        """Rows of each placement in a batch."""
        items = self.items * (1 - (1 - 1 / max(1, self.items)) ** candidates)
        return {"query": batch, "item": items, "snapshot": candidates, "cross": candidates}

    def _read(self, batch: float, candidates: float) -> Work:
        """Reading a batch, and its inputs: each table row gathered, pooled, and its gradient written back."""
        operations, elements = 100, 20 * candidates
        for placement, rows in self.rows(batch, candidates).items():
            layout, placed = self.layout, self.layout.schema.row_features(placement)
            operations += 8 * len(layout.groups[placement]) + 4 * len(placed.lists) + 2 * len(placed.vectors)
            listed = sum(
                self._length(name) * layout.schema.features[name].width
                for name in placed.lists
                if layout.schema.features[name].is_input
            )
            elements += rows * (layout.width(placement) + listed + 2 * len(placed.ids))
        return Work(operations, 0, elements)

    def _length(self, name: str) -> float:
        """Values of a list, on average."""
        last = getattr(self.layout.schema.features[name], "last", None)
        return LISTED if last is None else FILLED * last

    def _network(self, network: NetworkSettings, batch: float, candidates: float) -> Work:
        rows, schema = self.rows(batch, candidates), self.layout.schema
        work = Work(20, 0, 4 * candidates)
        for layer in network.first_layers(schema):
            work += self._layers(layer, rows, candidates)
        return work + network.further_work(self.layout, batch, candidates)

    def _layers(self, layer: FirstLayer, rows: Mapping[Placement, float], candidates: float) -> Work:
        """A first layer, each placement's part of it on its own rows, and those that follow."""
        columns = {p: len(self.layout.columns(p, layer.features)) for p in PLACEMENTS}
        products = sum(rows[p] * columns[p] * layer.width for p in PLACEMENTS)
        entered = [p for p in PLACEMENTS if columns[p]]
        outputs = rows[entered[0]] if len(entered) == 1 else candidates
        widths = [layer.width, *layer.then]
        products += outputs * sum(a * b for a, b in pairwise(widths))
        return Work(12 * len(widths) + 6 * len(entered), products, 3 * outputs * sum(widths))

    def dense_weights(self) -> int:
        """Numbers of all layers outside the tables."""
        total = sum(rows * columns for rows, columns in self.layout.projections.values())
        for network in self.config.networks.values():
            if network.fitted:
                continue
            for layer in network.first_layers(self.layout.schema):
                inputs = sum(len(self.layout.columns(p, layer.features)) for p in PLACEMENTS)
                widths = [inputs, layer.width, *layer.then]
                total += sum(a * b + b for a, b in pairwise(widths))
        return total


ROUNDS = 5
SMALL, WIDTH = 64, 256
ROWS, TABLE = 20_000, 1 << 19


@dataclass(frozen=True)
class Machine:
    """Seconds of what trainings are made of."""

    operation: float
    """Of a small operation of numpy, called from Python."""
    multiply_add: float
    """Of a multiplication and addition in a product of fp32 matrices."""
    element: float
    """Of gathering, scaling and adding a number of a table's row."""


@cache
def measure_machine(clock: Callable[[], float] = time.perf_counter) -> Machine:
    """Measure each by the fastest of some rounds, which others that compute slow least, in the usual number of threads.

    Args:
        clock: in seconds.
    """
    rng = np.random.default_rng(0)
    small = rng.random((4, SMALL), dtype=np.float32)
    left, right = (rng.random((rows, WIDTH), dtype=np.float32) for rows in (8 * WIDTH, WIDTH))
    table = np.zeros((TABLE // 16, 16), dtype=np.float32)
    chosen = rng.integers(0, len(table), ROWS)

    def operations() -> None:
        for _ in range(200):
            np.add(small, small)

    def gather() -> None:
        rows = table[chosen]
        rows *= 0.5
        rows += 1

    return Machine(
        _time_operation(operations, clock) / 200,
        _time_operation(lambda: left @ right, clock) / (len(left) * WIDTH * WIDTH),
        _time_operation(gather, clock) / (ROWS * 16),
    )


def _time_operation(run: Callable[[], object], clock: Callable[[], float]) -> float:
    run()  # the first call prepares memory and threads
    rounds = []
    for _ in range(ROUNDS):
        began = clock()
        run()
        rounds.append(clock() - began)
    return min(rounds)


OPERATION, MULTIPLY_ADD, ELEMENT = 76.0, 0.3, 0.33
"""How many times as long as on `Machine` each kind of work takes in a training; `scripts/bench training_forecast`
compares what follows with trainings."""
ITEM, USER = "item", "user"
"""Names of the ids in a profile."""
BACKWARD = 3
"""A step's products and changes of numbers over those of its forward pass."""
BEGIN = 0.4
"""Seconds before the first step and after the last."""
FRAMEWORK = 520_000_000
"""Bytes of Python, torch, polars and their libraries, and of reading a log of some hundred thousand rows."""
BATCHES = 1.5
"""How many times the numbers of a batch's forward pass lie in memory at once."""
FLOAT = 4
"""Bytes of a number."""
COUNTED = 16
"""Bytes of a minute whose candidates are counted."""


@dataclass(frozen=True)
class Forecast:
    """The cost of a training on this machine's processor, estimated from counts; boosted trees are not counted."""

    epochs: int
    """At most: it may stop early."""
    steps: int
    """Optimiser steps of an epoch."""
    seconds: float
    """Of all epochs, without packing."""
    memory: Mapping[str, int]
    """Bytes by what they hold: `framework`, `tables`, `networks`, `batches`, with the optimisers' state."""
    packed: int
    """Bytes of the packed data, which are mapped: the system may drop them from memory."""

    @classmethod
    def of(cls, work: TrainingWork, machine: Machine, packed: int | None = None) -> Self:
        """Forecast a training.

        Args:
            work: its work.
            machine: how fast this machine is.
            packed: bytes of its packed data, if they are there.
        """
        validating, batches = work.validation()
        after = batches * _seconds(validating, machine)
        seconds, epochs, largest = BEGIN, 0, Work(0, 0, 0)
        for learners, count in work.learners:
            step = work.step(learners)
            whole = Work(step.operations, BACKWARD * step.multiply_adds, BACKWARD * step.elements)
            seconds += count * (work.steps * _seconds(whole, machine) + after)
            epochs += count
            largest = max(largest, step, key=lambda one: one.elements)
        memory = {
            "framework": FRAMEWORK,
            "tables": FLOAT * _table_numbers(work),
            "networks": FLOAT * work.dense_weights() * (4 + (work.config.train.average is not None)),
            "batches": int(BATCHES * FLOAT * largest.elements),
        }
        return cls(epochs, work.steps, seconds, memory, _packed_bytes(work) if packed is None else packed)

    @property
    def lines(self) -> Iterator[str]:
        """The forecast in words, a line each."""
        total = self.epochs * self.steps
        yield (
            f"training: {self.steps:,} steps an epoch, {total:,} in {self.epochs:,} epochs at most, "
            f"about {format_seconds(self.seconds)} on this machine's processor"
        )
        parts = ", ".join(f"{name} {format_size(size)}" for name, size in self.memory.items())
        whole = format_size(sum(self.memory.values()))
        yield (f"memory: about {whole} ({parts}), and {format_size(self.packed)} of packed data, mapped")

    def document(self) -> dict[str, Any]:
        """The forecast as plain values."""
        return {
            "epochs": self.epochs,
            "steps_of_an_epoch": self.steps,
            "steps": self.epochs * self.steps,
            "seconds": round(self.seconds, 1),
            "memory": dict(self.memory),
            "packed": self.packed,
        }


def forecast_training(profile: LogProfile, packed: PackedDataset | None, machine: Machine) -> Forecast:
    """Forecast the training of a profiled config.

    Args:
        profile: of its log; its config has numbers in `train`.
        packed: its packed data, if there are some: they give the rows of each table.
        machine: how fast this machine is.
    """
    config, splits = profile.config, profile.counts.splits
    values = _distinct_values(profile)
    if packed is None:
        sizes = table_sizes(config.declared, values, sum(splits["train"].levels))
    else:
        sizes = dict(packed.encoders.sizes)
    work = TrainingWork(config, Layout(config.declared, sizes), splits, values[ITEM])
    packed_bytes = None if packed is None else packed.manifest.size
    return Forecast.of(work, machine, packed_bytes)


def _distinct_values(profile: LogProfile) -> dict[str, int]:
    """Training values by feature, where they are counted, and by ITEM and USER those of the ids."""
    data, schema = profile.config.data, profile.config.declared
    values = {facts.name: facts.values for facts in profile.features if facts.values is not None}
    ids = {data.item: values[ITEM], data.user: values[USER]}
    columns = {name: schema.column(name) for name in schema.columns()}
    return {name: ids[column] for name, column in columns.items() if column in ids} | values


def _seconds(work: Work, machine: Machine) -> float:
    return (
        OPERATION * work.operations * machine.operation
        + MULTIPLY_ADD * work.multiply_adds * machine.multiply_add
        + ELEMENT * work.elements * machine.element
    )


def _table_numbers(work: TrainingWork) -> int:
    """Numbers of all tables, of their optimiser and of their average."""
    train, rows = work.config.train, work.layout.table_rows
    weights, count = sum(dim * n for dim, n in rows.items()), sum(rows.values())
    networks = work.config.networks.values()
    sets = sum(n.embeddings == "own" for n in networks) + any(n.embeddings == "shared" for n in networks)
    state = 2 * weights if train.table.optimiser == "lazy_adam" else count
    averaged = 0 if train.average is None else weights + count
    return sets * (weights + state + averaged)


def _packed_bytes(work: TrainingWork) -> int:
    """Bytes of packed data: of candidates, requests, items, whose rows every split shares, and counts by minute."""
    schema, data = work.layout.schema, work.config.data
    each = {}
    for placement in PLACEMENTS:
        placed = schema.row_features(placement)
        numbers = len(placed.ids) + placed.width + LISTED * len(placed.lists)
        vectors = sum(2 * schema.features[name].vector.dimension for name in placed.vectors)
        each[placement] = FLOAT * numbers + vectors
    beside = sum(column is not None for column in (data.weight, data.position, data.propensity, data.truth))
    candidate = 5 + len(data.labels) + FLOAT * (len(data.scores) + beside)
    candidate += each["snapshot"] + each["cross"]
    candidates = sum(sum(split.levels) for split in work.splits.values())
    requests = sum(split.requests for split in work.splits.values())
    rows = candidates * candidate + requests * (28 + each["query"]) + work.items * each["item"]
    return rows + COUNTED * KEPT


def format_seconds(seconds: float) -> str:
    """Seconds, minutes or hours with two significant digits, for people."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{max(1, round(seconds))} seconds"


def format_size(size: float) -> str:
    """Bytes as kB, MB or GB with two significant digits, for people."""
    for unit, least in (("GB", 10**9), ("MB", 10**6)):
        if size >= 0.95 * least:
            return f"{size / least:.2g} {unit}" if size < 100 * least else f"{size / least:,.0f} {unit}"
    return f"{size / 1000:.0f} kB"

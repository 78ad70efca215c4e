"""Forecast of a training: steps, seconds and memory, by the work counted and the machine measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from corank.data.dataset import PackedDataset
from corank.features.input_layout import Layout
from corank.features.schema import PLACEMENTS
from corank.models.settings.network import Work
from corank.training.forecast.machine import Machine
from corank.training.forecast.work import LISTED, TrainingWork, table_sizes
from corank.training.profile.log_profile import LogProfile

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
    packed_bytes = None if packed is None else sum(packed.manifest.files.values())
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
    """Bytes of packed data: of candidates, of requests, and of items, whose rows every split shares."""
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
    return candidates * candidate + requests * (28 + each["query"]) + work.items * each["item"]


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

"""Steps of a training, and a bound of its memory.

The bound counts what a process of a training holds at most:

libraries  Python, torch, polars and what they read of a log of some hundred thousand rows, as measured
tables     weights, the optimiser's state and the average: exact
copies     the tables of the kept epoch, which is read back at the end; rows of the average that are brought up to date
layers     weights, gradients, both moments of Adam, the average and the kept epoch
batches    what is gathered of packed data, and what the largest batch computes and keeps for its gradients
packed     the files of packed data, mapped: the system may drop them from memory

Layers and batches are bounded by what is known without torch: the first layers. So the bound holds of networks of at
most `LAYERS` layers, none wider than the first, and their cross layers. Of losses only `in_batch` is counted, which
compares each request with each item; boosted trees are not, nor is what stage models of the lab and of plug-ins add.

Letters: R requests · C candidates of a batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from corank.batches.sampling import FIRST_CODE, Population, SplitCounts
from corank.core.formatting import format_size
from corank.data.packed.dataset import PackedDataset
from corank.features.encoding import PLACEMENTS, Placement
from corank.features.input_layout import Layout, event_width
from corank.losses.in_batch import InBatchLoss
from corank.models.settings.mlp import LayerSettings
from corank.models.settings.network import NetworkSettings
from corank.training.config.config import Config

JUDGED = 1024
"""Requests of a batch when a model is judged, as in `predict_split`."""
LIBRARIES = 520_000_000
"""Bytes."""
GATHERED = 100_000_000
"""Bytes of packed data that are gathered at a time, at most, and what that takes for a moment: see `Reader`."""
BUFFERS = 32_000_000
"""Bytes that steps and checkpoints take whatever the sizes are."""
LAYERS = 4
"""Of a network, at most."""
FLOAT = 4
"""Bytes of a number."""
COPIES = 4
"""What a step holds of each number that it computes: itself, what follows from it, and the gradients of both."""
ATTENTION = 64
"""Units that weigh an event for a candidate, at most."""


@dataclass(frozen=True)
class TrainingSize:
    """How many steps a training takes, and how much memory at most."""

    epochs: int
    """At most: it may stop early."""
    steps: int
    """Optimiser steps of an epoch."""
    memory: Mapping[str, int]
    """Bytes by what they hold, at most; empty unless the data are packed."""

    @classmethod
    def of(cls, config: Config, splits: Mapping[str, SplitCounts], packed: PackedDataset | None) -> Self:
        """Count steps and bytes.

        Args:
            config: with numbers in `train`.
            splits: by name.
            packed: the packed data, if they are there: they have the sizes of tables.
        """
        steps = config.train.steps_of_epoch(splits["train"].requests)
        memory = {} if packed is None else _bound_memory(config, splits, packed)
        return cls(sum(config.turns.values()), steps, memory)

    @property
    def lines(self) -> Iterator[str]:
        """Both in words, a line each."""
        total = self.epochs * self.steps
        yield f"training: {self.steps:,} steps an epoch, {total:,} in {self.epochs:,} epochs at most"
        if not self.memory:
            yield "memory: once the config is packed, this line has a bound"
            return
        parts = ", ".join(f"{name} {format_size(size)}" for name, size in self.memory.items())
        yield f"memory: at most {format_size(sum(self.memory.values()))} ({parts}, mapped)"

    def document(self) -> dict[str, Any]:
        """Both as plain values."""
        return {
            "epochs": self.epochs,
            "steps_of_an_epoch": self.steps,
            "steps": self.epochs * self.steps,
            "memory": dict(self.memory) or None,
        }


def _bound_memory(config: Config, splits: Mapping[str, SplitCounts], packed: PackedDataset) -> dict[str, int]:
    layout, size = Layout(config.declared, packed.encoders.sizes), packed.manifest.size
    tables, copies = _count_tables(config, layout.table_rows)
    return {
        "libraries": LIBRARIES,
        "tables": FLOAT * tables,
        "copies": FLOAT * copies,
        "layers": FLOAT * _count_layers(config, layout) * (5 + (config.train.average is not None)),
        "batches": BUFFERS + min(size, GATHERED) + FLOAT * _count_batch(config, layout, splits, packed),
        "packed": size,
    }


def _count_tables(config: Config, rows: Mapping[int, int]) -> tuple[int, int]:
    """Numbers of all tables with the optimiser's state and the average, and of their copies.

    Args:
        config: how they are trained.
        rows: of the table of each dimension.
    """
    train, networks = config.train, config.networks.values()
    weights, count = sum(dim * n for dim, n in rows.items()), sum(rows.values())
    sets = sum(n.embeddings == "own" for n in networks) + any(n.embeddings == "shared" for n in networks)
    state = 2 * weights if train.table.optimiser == "lazy_adam" else count
    averaged = 0 if train.average is None else weights + count
    # one table after another is brought up to date: weights, averages, their difference, its product, the sum; and of
    # each row its index, its weight and what these are computed from
    brought = 0 if train.average is None else max(((5 * dim + 8) * n for dim, n in rows.items()), default=0)
    return sets * (weights + state + averaged), sets * weights + brought


def _trained(config: Config) -> list[NetworkSettings]:
    return [network for network in config.networks.values() if not network.fitted]


def _count_layers(config: Config, layout: Layout) -> int:
    """Weights outside the tables, at most."""
    total = sum(rows * columns for rows, columns in layout.projections.values())
    layers = (layer for network in _trained(config) for layer in network.first_layers(layout.schema))
    for layer in layers:
        inputs = sum(len(layout.columns(placement, layer.features)) for placement in PLACEMENTS)
        total += layer.width * (inputs + LAYERS * (layer.width + 1))
    width = sum(map(layout.width, PLACEMENTS))
    for network in _trained(config):
        if isinstance(network, LayerSettings) and (dcn := network.dcn) is not None:
            total += dcn.layers * width * (2 * dcn.rank if dcn.rank else width)
    return total


def _count_batch(
    config: Config, layout: Layout, splits: Mapping[str, SplitCounts], packed: PackedDataset
) -> int:
    """Numbers that the largest batch holds, at most."""
    requests, judged = min(config.train.batch_size, splits["train"].requests), 0
    if "valid" in splits:
        judged = _most_candidates(splits["valid"], {len(config.data.levels) - 1: None}, JUDGED)

    def rows_of(population: Population) -> dict[Placement, int]:
        candidates = max(judged, _most_candidates(splits["train"], population, requests))
        items = min(candidates, len(packed.items))
        return {
            "query": max(requests, JUDGED),
            "item": items,
            "snapshot": candidates,
            "cross": candidates,
        }

    every, read = config.total.population(None), config.total.populations()
    rows = rows_of(every)
    total = sum(layout.width(placement) * rows[placement] for placement in PLACEMENTS)
    seen = {earlier for stage in config.stages for earlier, _ in stage.earlier()}
    for network in _trained(config):
        # a stage that another sees scores more than its losses read
        whole = network.name in seen or network.name not in read
        total += _count_network(network, layout, rows if whole else rows_of(read[network.name]))
    if any(isinstance(loss, InBatchLoss) for _, loss in config.total.select(None)):
        total += requests * rows["item"]
    return COPIES * total


def _count_network(network: NetworkSettings, layout: Layout, rows: Mapping[Placement, int]) -> int:
    """Numbers that a network computes of some rows of each placement, at most."""
    schema, total = layout.schema, 0
    for layer in network.first_layers(schema):
        read = {schema.placement(name) for name in layer.features}
        units = layer.width * max(1, network.member_count)
        total += LAYERS * units * (rows[read.pop()] if len(read) == 1 else rows["cross"])
    if isinstance(network, LayerSettings) and network.dcn is not None:
        total += (network.dcn.layers + 1) * sum(map(layout.width, PLACEMENTS)) * rows["cross"]
    if (attended := network.attended(schema)) is not None:
        width = event_width(layout, attended.history, attended.features) + ATTENTION
        total += 2 * width * rows["cross"] * schema.histories()[attended.history].last
    return total


def _most_candidates(split: SplitCounts, population: Population, requests: int) -> int:
    """The candidates of so many requests, at most: of each level, the requests with the most."""
    total = 0
    for code, most in population.items():
        if code >= FIRST_CODE:
            total += requests * (most or 0)
            continue
        left = requests
        for size, count in sorted(split.sizes[code].items(), reverse=True):
            total += min(left, count) * (size if most is None else min(size, most))
            left -= min(left, count)
    return total

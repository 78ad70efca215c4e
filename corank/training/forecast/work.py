"""The work of the steps of a training, counted from the config and its log.

Letters: B requests of a batch · N candidates of a batch · I distinct items of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

from corank.batches.label_counts import SplitCounts
from corank.features.input_layout import Layout
from corank.features.schema import PLACEMENTS, Placement, Schema
from corank.models.settings.network import FILLED, FirstLayer, NetworkSettings, Work
from corank.training.config import Config

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

"""What a new model takes over from an earlier run: rows of tables, layers, optimiser states, the average."""

from dataclasses import dataclass
from typing import Self

from corank.features.encoders import Encoders
from corank.features.row_maps.row_map import PackingMap
from corank.models.joint import JointModel
from corank.training.config import Config
from corank.training.run import build_networks
from corank.training.warm_start.layers import ModelMap
from corank.training.warm_start.source import CarrySource

SHARED = "shared"
"""The set of tables of stages that share."""


@dataclass(frozen=True)
class WeightMap:
    """Where the weights of a new model come from."""

    rows: PackingMap
    layers: ModelMap
    sets: dict[str, str | None]
    """Each set of tables → the earlier set that it begins as; None if it starts fresh."""

    @classmethod
    def find(cls, earlier: JointModel, new: JointModel, rows: PackingMap) -> "WeightMap":
        """Find the weights of a new model in an earlier one; both may be without rows of tables."""
        before = earlier.table_sets
        sets = {
            # a stage that gets tables of its own begins with those that it shared
            name: name if name in before else SHARED if SHARED in before else None
            for name in new.table_sets
        }
        return WeightMap(rows, ModelMap.of(earlier, new), sets)

    def earlier_table(self, table: str) -> str | None:
        """The earlier table that a table such as `shared.weights.16` begins as; None if there is none."""
        of, _, dim = table.rpartition(".weights.")
        earlier, before = self.sets[of], self.rows.layouts[0].table_rows
        return None if earlier is None or int(dim) not in before else f"{earlier}.weights.{dim}"


@dataclass(frozen=True)
class WarmStartPlan(WeightMap):
    """What a training takes over from an earlier run."""

    source: CarrySource
    config: Config
    """Of the new model."""

    @classmethod
    def of(cls, source: CarrySource, config: Config, encoders: Encoders) -> Self:
        """Find what goes over into the model of a config over packed data of some encoders."""
        rows = PackingMap(source.encoders, encoders)
        weights = WeightMap.find(source.networks, build_networks(config, encoders), rows)
        return cls(weights.rows, weights.layers, weights.sets, source, config)

    @property
    def same_table_optimiser(self) -> bool:
        """Whether the states of the tables' optimiser mean the same."""
        before, now = self.source.run.config.train.table, self.config.train.table
        return before.optimiser == now.optimiser

    @property
    def carries_average(self) -> bool:
        """Whether the running average continues; otherwise it begins at the weights that are taken over."""
        return self.source.averages and self.config.train.average is not None

"""The pre-ranker: a query tower and an item tower that meet in a dot product.

Letters: R requests · I distinct items · C candidates.
"""

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from corank.batches.batch import Batch
from corank.core.settings import Settings
from corank.features.input_layout import Layout
from corank.features.schema import Placement, Schema
from corank.models.layers import Columns, StageSettings, Tower, Widths, pair_dot
from corank.models.stage_context import StageContext
from corank.models.stage_io import StageOutput, StageVectors


class QueryTower(Settings):
    """One of several query towers."""

    features: list[str] = Field(min_length=1)
    widths: Widths | None = None
    """Those of `query` unless given."""


class TowersSettings(StageSettings):
    model: Literal["towers"]
    query: Widths = [512, 128, 64, 32]
    item: Widths = [512, 128, 64, 32]
    query_features: list[str] | None = None
    """Features of the query tower; all of the query side unless given."""
    query_towers: dict[str, QueryTower] = {}
    """Several query towers by name, such as one of the user and one of the context, whose vectors are summed."""
    item_features: list[str] | None = None
    """Features of the item tower; all of the item side unless given."""
    label: str = "click"

    scorer: ClassVar[str] = "vectors"

    @property
    def labels(self) -> list[str]:
        """The one label that it predicts."""
        return [self.label]

    def predicts(self) -> list[str]:
        """The one label that it predicts."""
        return self.labels

    @model_validator(mode="before")
    @classmethod
    def _orders_by_its_label(cls, value: Any) -> Any:
        return {"value": value.get("label", "click")} | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _equal_last_widths(self) -> Self:
        if self.query_towers and self.query_features is not None:
            raise ValueError("query_features are those of a single query tower; drop them, or query_towers")
        for name, widths in self.queries().items():
            if widths[-1] != self.item[-1]:
                raise ValueError(
                    f"the towers of '{self.name}' meet in a dot product, so their last widths must be equal; "
                    f"received {name} {widths[-1]} and item {self.item[-1]}"
                )
        return self

    def queries(self) -> dict[str, list[int]]:
        """The widths of each query tower."""
        if not self.query_towers:
            return {"query": self.query}
        return {name: tower.widths or self.query for name, tower in self.query_towers.items()}

    def input_features(self, schema: Schema) -> dict[str, list[str]]:
        """The features of each tower, by `STAGE.TOWER`."""
        queries = {"query": self.query_features} | {n: t.features for n, t in self.query_towers.items()}
        if self.query_towers:
            del queries["query"]
        chosen = {
            name: list(schema.placed("query")) if names is None else names for name, names in queries.items()
        }
        item = list(schema.placed("item")) if self.item_features is None else self.item_features
        return {f"{self.name}.{tower}": names for tower, names in (chosen | {"item": item}).items()}

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config, such as an item feature in a query tower."""
        super().check(context)
        schema = context.schema
        for name, tower in self.query_towers.items():
            schema.refuse(tower.features, "query", f"stages.{self.name}.query_towers.{name}.features")
        schema.refuse(self.query_features or [], "query", f"stages.{self.name}.query_features")
        schema.refuse(self.item_features or [], "item", f"stages.{self.name}.item_features")


class Towers(nn.Module):
    """Logit exp(s)·⟨q, v⟩ + b: the scale cannot turn negative, so the order of the dot products holds."""

    def __init__(self, settings: TowersSettings, layout: Layout) -> None:
        super().__init__()
        self.label = settings.label
        self.query = self._queries(settings, layout)
        self.item = self._tower("item", settings.item, settings.item_features, settings, layout)
        self.scale = nn.Parameter(torch.tensor(-0.5 * math.log(settings.item[-1])))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def _queries(self, settings: TowersSettings, layout: Layout) -> nn.Module:
        if not settings.query_towers:
            return self._tower("query", settings.query, settings.query_features, settings, layout)
        widths = settings.queries()
        return Sum(
            self._tower("query", widths[name], tower.features, settings, layout)
            for name, tower in settings.query_towers.items()
        )

    @staticmethod
    def _tower(
        placement: Placement,
        widths: list[int],
        names: list[str] | None,
        settings: TowersSettings,
        layout: Layout,
    ) -> nn.Module:
        if names is None:
            return Tower(layout.width(placement), widths, settings)
        columns = layout.columns(placement, names)
        return nn.Sequential(Columns(columns.tolist()), Tower(len(columns), widths, settings))

    def forward(self, inputs: dict[Placement, Tensor], batch: Batch) -> StageOutput:
        """The logits of a batch's candidates, and the vectors that they are made of."""
        query, item, scale = self.query(inputs["query"]), self.item(inputs["item"]), self.scale.exp()
        logits = scale * pair_dot(query, item, batch) + self.bias
        return StageOutput({self.label: logits}, StageVectors(query, item, scale, self.bias))


class Sum(nn.Module):
    """The sum of what several towers give."""

    def __init__(self, towers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    def forward(self, x: Tensor) -> Tensor:
        vectors = [tower(x) for tower in self.towers]
        return torch.stack(vectors).sum(0)

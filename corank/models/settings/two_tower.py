"""Stage model `towers`: settings of a query tower and an item tower."""

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Gt, Lt
from pydantic import Field, model_validator

from corank.core.errors import ConfigError
from corank.core.settings import Settings, describe_unknown, validate
from corank.features.encoding import RECORD_PLACEMENTS, Placement
from corank.features.schema import Schema
from corank.models.settings.network import FirstLayer, StageContext, Widths, multiply_widths
from corank.models.settings.stage import (
    PARTS,
    STAGE_MODELS,
    VECTOR,
    SingleLabelSettings,
    StageSettings,
    role_of,
)

BIASED_WIDTH = 3
"""The least width of vectors with biases: a number of the product, and one for each side's bias."""


class QueryTower(Settings):
    """One of several query towers."""

    features: list[str] = Field(min_length=1)
    """Query features that enter it."""
    widths: Widths | None = None
    """Those of `query` unless given."""


@STAGE_MODELS.register("towers")
class TowersSettings(SingleLabelSettings):
    """Settings of query and item towers that meet in a dot product."""

    network: ClassVar[str] = "corank.models.two_tower:Towers"
    scorer: ClassVar[str] = PARTS
    item_parts: ClassVar[tuple[str, ...]] = (VECTOR,)
    model: Literal["towers"] = "towers"
    query: Widths = [512, 128, 64, 32]
    """Widths of the query tower."""
    item: Widths = [512, 128, 64, 32]
    """Widths of the item tower; the last is that of the query tower."""
    query_features: list[str] | None = None
    """Features of the query tower; all of the query side unless given."""
    query_towers: dict[str, QueryTower] = {}
    """Several query towers by name, such as one of the user and one of the context, whose vectors are summed."""
    item_features: list[str] | None = None
    """Features of the item tower; all of the item side unless given."""
    feature_dropout: dict[str, Annotated[float, Gt(0), Lt(1)]] = {}
    """Share of rows for which a training step leaves a feature out, by feature; in the others it counts 1/(1 − share)
    times. What is learnt of it on top of the other features ends up 1 − share as large: an id whose targets are noisy
    then moves a vector less from where its attributes put it. Not for snapshot features."""
    bias: bool = True
    """Whether each side adds a bias of its own to the logit. The two are numbers of the vectors, within their width."""
    matches: list[str] = []
    """Crosses of kind count, contains, since, within or share, or priors by both sides, each of which adds a learnt
    term to the logit: a request computes them for all candidates. With `buckets` each range has a term of its own.
    Vectors do not contain them, so retrieval and `in_batch` refuse a stage with matches."""

    @model_validator(mode="after")
    def _equal_last_widths(self) -> Self:
        if self.query_towers and self.query_features is not None:
            raise ValueError("query_features are those of a single query tower; drop them, or query_towers")
        for name, widths in self.queries().items():
            if widths[-1] != self.item[-1]:
                raise ValueError(
                    f"the towers of '{self.name}' meet, so their last widths must be equal; "
                    f"received {name} {widths[-1]} and item {self.item[-1]}"
                )
        if self.bias and self.item[-1] < BIASED_WIDTH:
            raise ValueError(
                f"bias takes two numbers of a vector, so the last width is {BIASED_WIDTH} or more; received "
                f"{self.item[-1]}; write more, or bias: false"
            )
        return self

    def queries(self) -> dict[str, list[int]]:
        """The widths of each query tower."""
        if not self.query_towers:
            return {"query": self.query}
        return {name: tower.widths or self.query for name, tower in self.query_towers.items()}

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config, such as an item feature in a query tower."""
        super().check(context)
        schema = context.schema
        for name, tower in self.query_towers.items():
            schema.check_tower(tower.features, "query", f"stages.{self.name}.query_towers.{name}.features")
        schema.check_tower(self.query_features or [], "query", f"stages.{self.name}.query_features")
        schema.check_tower(self.item_features or [], "item", f"stages.{self.name}.item_features")
        self._check_matches(schema)
        self._require_inputs(schema)
        self._check_dropout(schema)

    def _check_dropout(self, schema: Schema) -> None:
        """Raise ConfigError if a feature that training leaves out now and then enters no tower."""
        entered = set[str]().union(*(layer.features for layer in self.first_layers(schema)))
        read = [name for name in schema.features if name in entered and schema.placement(name) != "snapshot"]
        for name in self.feature_dropout:
            if name not in read:
                raise ConfigError(
                    f"stages.{self.name}.feature_dropout.{name}: "
                    f"{describe_unknown(name, read, 'tower feature')}"
                )

    def _check_matches(self, schema: Schema) -> None:
        """Raise ConfigError unless every match is a cross of a kind that a pre-ranker can afford."""
        key = f"stages.{self.name}.matches"
        known = [n for n, f in schema.derived("cross").items() if f.may_match]
        for n, name in enumerate(self.matches):
            if name in self.matches[:n]:
                raise ConfigError(f"{key}: '{name}' is there twice; drop one")
            if name not in known:
                alternatives = f"those declared are {', '.join(known)}" if known else "none is declared"
                raise ConfigError(
                    f"{key}: '{name}' is no feature of kind count, contains or since of the query and the item, such "
                    f"as {{kind: count, of: [history.brand, brand]}}, a prior by both, or of kind within; "
                    f"{alternatives}"
                )

    def _require_inputs(self, schema: Schema) -> None:
        """Raise ConfigError if a tower would read nothing: it would give every row one vector."""
        sides: tuple[tuple[Placement, list[str] | None], ...] = (
            ("query", None if self.query_towers else self.query_features),
            ("item", self.item_features),
        )
        for side, names in sides:
            # an item's priors and ages are added to its vector: they distinguish items, too
            placements = (side,) if side == "query" else RECORD_PLACEMENTS
            read = [name for name in schema.inputs() if schema.placement(name) in placements]
            if not any(names is None or name in names for name in read):
                known = f"; those of its side are {', '.join(read)}" if read else ""
                raise ConfigError(
                    f"stages.{self.name}.{side}_features: the {side} tower reads no feature{known}; declare or name "
                    "one, since vectors that are all equal rank nothing"
                )

    @property
    def orders_by_product(self) -> bool:
        """Whether vectors alone order candidates: not with matches."""
        return not self.matches

    def counted(self) -> list[str]:
        """The matches."""
        return self.matches

    def first_layers(self, schema: Schema) -> list[FirstLayer]:
        """One first layer a tower; that of items does not run for requests."""
        queries = {
            name: self.query_towers[name].features if self.query_towers else self.query_features
            for name in self.queries()
        }
        return [
            *(
                FirstLayer(_enter(schema, "query", features), self.queries()[name][0], name)
                for name, features in queries.items()
            ),
            FirstLayer(_enter(schema, "item", self.item_features), self.item[0], "item"),
            *([FirstLayer(frozenset(self.matches), 1, "matches")] if self.matches else []),
        ]

    def without_features(self, names: Collection[str]) -> Self:
        """The same towers without some features."""

        def kept(features: list[str]) -> list[str]:
            return [name for name in features if name not in names]

        towers = {
            name: tower.model_copy(update={"features": kept(tower.features)})
            for name, tower in self.query_towers.items()
        }
        sides = ("query_features", "item_features", "matches")
        chosen = {side: kept(getattr(self, side)) for side in sides if getattr(self, side) is not None}
        dropout = {name: share for name, share in self.feature_dropout.items() if name not in names}
        return self.model_copy(update=chosen | {"query_towers": towers, "feature_dropout": dropout})

    def in_role_of(self, stage: StageSettings) -> StageSettings:
        """Towers of the same widths in the role of another stage, which read all of its features."""
        every = {"query_features", "item_features", "query_towers", "matches"}
        kept = self.model_dump(exclude=every | set(StageSettings.model_fields) - {"model"})
        values = kept | {"label": stage.main} | role_of(stage)
        return validate(type(self), values, f"stages.{stage.name}")

    def scale_widths(self, factor: float) -> Self:
        """The same towers, `factor` times as wide, their vectors as wide as biases need at least."""
        least = BIASED_WIDTH if self.bias else 1

        def scaled(widths: list[int]) -> list[int]:
            *hidden, last = multiply_widths(widths, factor)
            return [*hidden, max(last, least)]

        towers = {
            name: tower.model_copy(update={"widths": tower.widths and scaled(tower.widths)})
            for name, tower in self.query_towers.items()
        }
        sides = {"query": scaled(self.query), "item": scaled(self.item)}
        return self.model_copy(update=sides | {"query_towers": towers})


def _enter(schema: Schema, placement: Placement, names: list[str] | None) -> frozenset[str]:
    """The features that enter a tower: all of its side unless some are named."""
    placements = RECORD_PLACEMENTS if placement == "item" else (placement,)
    placed = (name for name in schema.inputs() if schema.placement(name) in placements)
    return frozenset(name for name in placed if names is None or name in names)

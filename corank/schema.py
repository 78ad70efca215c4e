"""Features: where each comes from (side), how it is encoded (kind), and what may enter which tower.

Sides `user` and `context` make up the query: known once a request. `item` is known ahead of any request.
`cross` belongs to a pair of both, so that only a ranker may see it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from corank.errors import ConfigError
from corank.settings import Duration, Settings

Side = Literal["user", "context", "item", "cross"]
Placement = Literal["query", "item", "cross"]
PLACEMENTS: tuple[Placement, ...] = ("query", "item", "cross")

_DAY = timedelta(days=1)

MISSING, UNKNOWN, FIRST_KNOWN = 0, 1, 2
"""Codes of every id feature: 0 for a null, 1 for a value outside the vocabulary, then the values."""


class FeatureSettings(Settings):
    side: Side
    column: str | None = None
    """Column of the side's table; the feature's name unless given."""

    @property
    def placement(self) -> Placement:
        return "query" if self.side == "user" or self.side == "context" else self.side


class IdFeature(FeatureSettings):
    """One categorical value, embedded. A vocabulary of the training rows, or a hash into `hash` rows."""

    kind: Literal["id"]
    dim: PositiveInt = 16
    min_count: PositiveInt = 1
    """Values seen less often in training are encoded as unknown, which so learns an embedding."""
    hash: PositiveInt | None = None


class IdsFeature(FeatureSettings):
    """Several categorical values, their embeddings pooled: a list column, or (`of`) the user's history."""

    kind: Literal["ids"]
    dim: PositiveInt = 16
    pool: Literal["mean", "sum"] = "mean"
    last: PositiveInt = 50
    """At most so many values, the newest of a history, the first of a list column."""
    min_count: PositiveInt = 1
    hash: PositiveInt | None = None
    separator: str | None = None
    """Splits a text column into values, as in `20,43`."""
    of: str | None = None
    """The item id feature whose table the history shares; its past items are the values."""
    event: str | None = None
    """History: the label that must be 1 (any exposed candidate unless given)."""
    lag: Duration = timedelta()
    """History: what happened less than so long before the request is not yet known."""
    every: Duration | None = None
    """History: frozen at the last multiple of this (in the data's time zone) before the request."""

    @model_validator(mode="after")
    def _history_or_list(self) -> Self:
        if self.every is not None and (not self.every or (self.every > _DAY and self.every % _DAY)):
            raise ValueError("every must be above 0s, and whole days where it is more than one")
        if self.of is None and (self.event or self.lag or self.every):
            raise ValueError("event, lag and every describe a history; write `of: <item id feature>` too")
        if self.of is not None:
            if self.side != "user":
                raise ValueError(
                    f"a history belongs to the user; write `side: user` in place of `{self.side}`"
                )
            if self.hash or self.separator or self.min_count > 1:
                raise ValueError(
                    "a history is encoded by the feature it is `of`; drop hash, separator, min_count"
                )
        return self


class NumberFeature(FeatureSettings):
    """A number, scaled to about unit size. A missing one becomes the scaled mean; use `bucket` where missing tells."""

    kind: Literal["number"]
    scale: Literal["none", "standard", "log", "quantile"] = "standard"


class BucketFeature(FeatureSettings):
    """A number cut at its quantiles and embedded, with a row of its own for missing."""

    kind: Literal["bucket"]
    buckets: PositiveInt = 32
    dim: PositiveInt = 16


Feature = Annotated[IdFeature | IdsFeature | NumberFeature | BucketFeature, Field(discriminator="kind")]
Embedded = IdFeature | IdsFeature | BucketFeature


@dataclass(frozen=True)
class Placed:
    """The features of one placement, in the order of the encoded arrays."""

    ids: tuple[str, ...]
    lists: tuple[str, ...]
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """All features of a config, in its order."""

    features: dict[str, Feature]

    def __post_init__(self) -> None:
        for name, feature in self.features.items():
            if isinstance(feature, IdsFeature) and feature.of is not None:
                self._check_history(name, feature)

    def _check_history(self, name: str, history: IdsFeature) -> None:
        owner = self.features.get(history.of or "")
        if not isinstance(owner, IdFeature) or owner.side != "item":
            items = [n for n, f in self.features.items() if isinstance(f, IdFeature) and f.side == "item"]
            raise ConfigError(
                f"features.{name}.of: must name an item id feature ({', '.join(items) or 'none declared'}); "
                f"received {history.of!r}"
            )
        if history.dim != owner.dim:
            raise ConfigError(
                f"features.{name}.dim: a history shares the table of '{history.of}', whose dim is {owner.dim}; "
                f"received {history.dim}"
            )

    def column(self, name: str) -> str:
        return self.features[name].column or name

    def placed(self, placement: Placement) -> Placed:
        here = [(n, f) for n, f in self.features.items() if f.placement == placement]
        return Placed(
            ids=tuple(n for n, f in here if isinstance(f, IdFeature | BucketFeature)),
            lists=tuple(n for n, f in here if isinstance(f, IdsFeature)),
            numbers=tuple(n for n, f in here if isinstance(f, NumberFeature)),
        )

    def table_of(self, name: str) -> str:
        """The feature that owns the embedding table of `name`: a history shares that of its items."""
        feature = self.features[name]
        return feature.of if isinstance(feature, IdsFeature) and feature.of else name

    def embedded(self) -> dict[str, Embedded]:
        return {n: f for n, f in self.features.items() if not isinstance(f, NumberFeature)}

    def histories(self) -> dict[str, IdsFeature]:
        return {n: f for n, f in self.features.items() if isinstance(f, IdsFeature) and f.of is not None}

    def refuse(self, names: Iterable[str], allowed: Placement, key: str) -> None:
        """Raise ConfigError unless every feature exists and is of the `allowed` placement.

        A history that shares the item's table is a query feature; the item id itself is not.
        """
        for name in names:
            if name not in self.features:
                raise ConfigError(f"{key}: no feature '{name}' is declared under features")
            found = self.features[name].placement
            if found != allowed:
                article = "an" if found == "item" else "a"
                reason = {
                    "query": "at serving time the query tower runs once a request and does not know the item",
                    "item": "item vectors are computed ahead of any request and do not know the query",
                    "cross": "",
                }[allowed]
                raise ConfigError(
                    f"{key}: '{name}' is {article} {found} feature and cannot enter the {allowed} tower: {reason}; "
                    "leave it to a ranker stage"
                )

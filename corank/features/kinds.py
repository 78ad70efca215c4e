"""What a feature may be: read from a column, or derived, a cross or a prior, from other features.

A feature of a column says its side. A derived one has the side of its operands: `user` and `context` make up the
query, known once a request; `item` is known ahead of any request; what is made of both is a `cross`, a pair's, and
only a ranker may see it.
"""

from datetime import timedelta
from typing import Annotated, Literal, Self

from annotated_types import Len, MinLen
from pydantic import AllowInfNan, Field, PositiveFloat, PositiveInt, model_validator

from corank.core.settings import Duration, Settings

Side = Literal["user", "context", "item", "cross"]
Scaling = Literal["none", "standard", "log", "quantile"]

LAST = 50
"""Values of a list, at most, unless a feature says otherwise."""

_DAY = timedelta(days=1)


def check_grid(every: timedelta) -> None:
    """Raise ValueError unless times can be cut to a grid of this step."""
    if not every or (every > _DAY and every % _DAY):
        raise ValueError("every must be above 0s, and whole days where it is more than one")


class ColumnFeature(Settings):
    side: Side
    column: str | None = None
    """Column of the side's table; the feature's name unless given."""


def check_filter(side: Side, filter_by: bool) -> None:
    """Raise ValueError where what is no item's is to be filtered by."""
    if filter_by and side != "item":
        raise ValueError(f"filter is for retrieval, which knows items alone; this one's side is {side}")


class IdFeature(ColumnFeature):
    """One categorical value, embedded. A vocabulary of the training rows, or a hash into `hash` rows."""

    kind: Literal["id"]
    dim: PositiveInt = 16
    min_count: PositiveInt = 1
    """Values seen less often in training are encoded as unknown, which so learns an embedding."""
    hash: PositiveInt | None = None
    filter: bool = False
    """An item's: requests may filter retrieval by it."""

    @model_validator(mode="after")
    def _of_items(self) -> Self:
        check_filter(self.side, self.filter)
        return self


class IdsFeature(ColumnFeature):
    """Several categorical values, their embeddings pooled: a list column, or (`of`) of the user's history."""

    kind: Literal["ids"]
    dim: PositiveInt = 16
    pool: Literal["mean", "sum"] = "mean"
    last: PositiveInt = LAST
    """At most so many values, the newest of a history, the first of a list column."""
    min_count: PositiveInt = 1
    hash: PositiveInt | None = None
    separator: str | None = None
    """Splits a text column into values, as in `20,43`."""
    filter: bool = False
    """An item's: requests may filter retrieval by any of its values."""
    of: str | None = None
    """A history: the item id feature whose table it shares; its past items are the values. Or `HISTORY.FEATURE`: an
    attribute of that history's items, which shares the table of that item feature."""
    event: str | None = None
    """History: the label that must be 1 (any exposed candidate unless given)."""
    lag: Duration = timedelta()
    """History: what happened less than so long before the request is not yet known."""
    every: Duration | None = None
    """History: frozen at the last multiple of this (in the data's time zone) before the request."""
    half_life: Duration | None = None
    """History: an event that is so much older than another counts half as much."""

    @property
    def attribute(self) -> tuple[str, str] | None:
        """The history and the item feature whose values these are, if they are an attribute of a history's items."""
        history, dot, feature = (self.of or "").rpartition(".")
        return (history, feature) if dot else None

    @model_validator(mode="after")
    def _history_or_list(self) -> Self:
        check_filter(self.side, self.filter)
        if self.every is not None:
            check_grid(self.every)
        if self.half_life is not None and not self.half_life:
            raise ValueError("half_life must be above 0s")
        own = self.event or self.lag or self.every or self.half_life
        if self.of is None and own:
            raise ValueError(
                "event, lag, every and half_life describe a history; write `of: <item id feature>` too"
            )
        if self.of is not None:
            if self.side != "user":
                raise ValueError(
                    f"a history belongs to the user; write `side: user` in place of `{self.side}`"
                )
            if self.hash or self.separator or self.min_count > 1:
                raise ValueError(
                    "a history is encoded by the feature it is `of`; drop hash, separator, min_count"
                )
        if self.attribute and (own or self.last != LAST):
            raise ValueError(
                f"event, lag, every, half_life and last are those of the history '{self.attribute[0]}'; drop them here"
            )
        return self


class NumberFeature(ColumnFeature):
    """A number, scaled to about unit size. A missing one becomes the scaled mean; use `bucket` where missing tells."""

    kind: Literal["number"]
    scale: Scaling = "standard"


class BucketFeature(ColumnFeature):
    """A number cut at its quantiles and embedded, with a row of its own for missing."""

    kind: Literal["bucket"]
    buckets: PositiveInt = 32
    dim: PositiveInt = 16


class DerivedFeature(Settings):
    """Made of other features, its operands, by the same code offline and online."""

    kind: str

    @property
    def operands(self) -> list[str]:
        """Names of features of columns, or `HISTORY.FEATURE`."""
        raise NotImplementedError


Two = Annotated[list[str], Len(2, 2)]


class PairFeature(DerivedFeature):
    """Two values as one, embedded: a vocabulary of the training rows' pairs, or a hash. Missing if either is."""

    kind: Literal["pair"]
    of: Two
    dim: PositiveInt = 16
    min_count: PositiveInt = 1
    hash: PositiveInt | None = None

    @property
    def operands(self) -> list[str]:
        return self.of


class ContainsFeature(DerivedFeature):
    """1 where a list holds the value, or one of the values, of another feature, else 0."""

    kind: Literal["contains"]
    of: Two

    @property
    def operands(self) -> list[str]:
        return self.of


class ScaledFeature(DerivedFeature):
    """A derived feature that is a number: scaled, or cut into `buckets` and embedded."""

    scale: Scaling | None = None
    """That of its kind unless given."""
    buckets: PositiveInt | None = None
    """Cut at so many quantiles and embedded, with a row of its own for missing, in place of `scale`."""
    dim: PositiveInt = 16
    """Of the embedding, with `buckets`."""

    @property
    def scaling(self) -> Scaling:
        return self.scale or "standard"

    @model_validator(mode="after")
    def _scaled_or_embedded(self) -> Self:
        if self.buckets is not None and self.scale is not None:
            raise ValueError("buckets embed the number and scale leaves it one; write one of them")
        return self


class CountFeature(ScaledFeature):
    """How often a list holds the value, or the values, of another feature."""

    kind: Literal["count"]
    of: Two

    @property
    def operands(self) -> list[str]:
        return self.of

    @property
    def scaling(self) -> Scaling:
        return self.scale or "log"


class ProductFeature(ScaledFeature):
    """a · b of two numbers, missing if either is, or where it is no finite number."""

    kind: Literal["product"]
    of: Two

    @property
    def operands(self) -> list[str]:
        return self.of


class RatioFeature(ScaledFeature):
    """a / b of two numbers, missing if either is, or where it is no finite number, as if b is 0."""

    kind: Literal["ratio"]
    of: Two

    @property
    def operands(self) -> list[str]:
        return self.of


class PriorFeature(ScaledFeature):
    """What happened before to candidates with the same values of `by`, as of the last snapshot before the request.

    With a label its smoothed rate, (n₁ + s·r) / (n + s), of the n exposed candidates whose label is known, n₁ of them
    1; r is the rate of all and s the smoothing. Without one log(1 + n) of the exposed, scaled.
    """

    kind: Literal["prior"]
    by: Annotated[list[str], MinLen(1)]
    label: str | None = None
    every: Duration = _DAY
    """Snapshots are taken at multiples of this, in the data's time zone."""
    lag: Duration = timedelta()
    """A snapshot does not know what happened less than so long before it."""
    smoothing: Annotated[PositiveFloat, AllowInfNan(False)] = 10.0
    """Candidates of the rate of all that are added to a key's own."""

    @property
    def operands(self) -> list[str]:
        return self.by

    @model_validator(mode="after")
    def _on_a_grid(self) -> Self:
        check_grid(self.every)
        return self


Feature = Annotated[
    IdFeature
    | IdsFeature
    | NumberFeature
    | BucketFeature
    | PairFeature
    | ContainsFeature
    | CountFeature
    | ProductFeature
    | RatioFeature
    | PriorFeature,
    Field(discriminator="kind"),
]
Embedded = IdFeature | IdsFeature | BucketFeature | PairFeature | ScaledFeature


def is_embedded(feature: Feature) -> bool:
    """Whether a feature has rows of a table; the others are numbers."""
    if isinstance(feature, ScaledFeature):
        return feature.buckets is not None
    return isinstance(feature, IdFeature | IdsFeature | BucketFeature | PairFeature)

"""All features of a config: the side of each, what may enter which tower, which embedding table it reads."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from corank.core.errors import ConfigError
from corank.features.kinds import (
    BucketFeature,
    ColumnFeature,
    ContainsFeature,
    CountFeature,
    DerivedFeature,
    Embedded,
    Feature,
    IdFeature,
    IdsFeature,
    NumberFeature,
    PairFeature,
    PriorFeature,
    Side,
    is_embedded,
)
from corank.features.log_schema import DataSettings

Placement = Literal["query", "item", "cross"]
PLACEMENTS: tuple[Placement, ...] = ("query", "item", "cross")

MISSING, UNKNOWN, FIRST_KNOWN = 0, 1, 2
"""Codes of every id feature: 0 for a null, 1 for a value outside the vocabulary, then the values."""


@dataclass(frozen=True)
class Placed:
    """The features of one placement, in the order of the encoded arrays."""

    ids: tuple[str, ...]
    lists: tuple[str, ...]
    numbers: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.ids, *self.numbers, *self.lists))


@dataclass(frozen=True)
class Schema:
    """All features of a config, in its order. Raises ConfigError where they contradict each other."""

    features: dict[str, Feature]

    def __post_init__(self) -> None:
        for name, feature in self.features.items():
            if "." in name:
                raise ConfigError(f"features.{name}: a name has no dot, which `HISTORY.FEATURE` is told by")
            if isinstance(feature, IdsFeature) and feature.attribute:
                self._check_attribute(name, feature, *feature.attribute)
            elif isinstance(feature, IdsFeature) and feature.of is not None:
                self._check_history(name, feature)
            elif isinstance(feature, DerivedFeature):
                self._check_operands(name, feature)

    def _check_history(self, name: str, history: IdsFeature) -> None:
        owner = self.features.get(history.of or "")
        if not isinstance(owner, IdFeature) or owner.side != "item":
            items = [n for n, f in self.features.items() if isinstance(f, IdFeature) and f.side == "item"]
            raise ConfigError(
                f"features.{name}.of: must name an item id feature ({', '.join(items) or 'none declared'}); "
                f"received {history.of!r}"
            )
        self._check_dim(name, history, history.of or "", owner.dim)

    def _check_attribute(self, name: str, feature: IdsFeature, history: str, attribute: str) -> None:
        self._check_operand(f"features.{name}.of", feature.of or "")
        owner = self.features[attribute]
        assert isinstance(owner, IdFeature | IdsFeature)
        self._check_dim(name, feature, attribute, owner.dim)

    def _check_dim(self, name: str, feature: IdsFeature, owner: str, dim: int) -> None:
        if feature.dim != dim:
            raise ConfigError(
                f"features.{name}.dim: a history shares the table of '{owner}', whose dim is {dim}; "
                f"received {feature.dim}"
            )

    def _check_operands(self, name: str, feature: DerivedFeature) -> None:
        key = f"features.{name}.{'by' if isinstance(feature, PriorFeature) else 'of'}"
        if len(set(feature.operands)) < len(feature.operands):
            raise ConfigError(f"{key}: names one feature twice; received {', '.join(feature.operands)}")
        for operand in feature.operands:
            self._check_operand(key, operand)
        found = [self._operand_kind(operand) for operand in feature.operands]
        if isinstance(feature, PairFeature | PriorFeature):
            expected, wanted = [{"id"}] * len(found), "features of kind id or bucket"
        elif isinstance(feature, ContainsFeature | CountFeature):
            expected, wanted = [{"list"}, {"id", "list"}], "a list or history, then an id or a list"
        else:
            expected, wanted = [{"number"}] * 2, "two features of kind number or bucket"
        for operand, kinds, allowed in zip(feature.operands, found, expected, strict=True):
            if not kinds & allowed:
                raise ConfigError(f"{key}: a {feature.kind} is of {wanted}; '{operand}' is neither")
        if isinstance(feature, ContainsFeature | CountFeature) and "bucket" in found[1]:
            raise ConfigError(f"{key}: a {feature.kind} is of {wanted}; '{feature.operands[1]}' is neither")

    def _check_operand(self, key: str, operand: str) -> None:
        """Raise ConfigError unless an operand is a feature of a column, or an attribute of a history's items."""
        history, dot, name = operand.rpartition(".")
        if dot and history not in self.histories():
            raise ConfigError(
                f"{key}: '{operand}' is an attribute of a history, but '{history}' is none; "
                f"histories are {', '.join(self.histories()) or 'not declared'}"
            )
        feature = self.features.get(name)
        if feature is None:
            raise ConfigError(f"{key}: no feature '{name}' is declared under features")
        if not isinstance(feature, ColumnFeature) or (isinstance(feature, IdsFeature) and feature.attribute):
            raise ConfigError(f"{key}: '{name}' is itself made of others; name features of columns")
        if feature.side == "cross":
            raise ConfigError(
                f"{key}: '{name}' is logged with the pair, and unknown where the pair was not; "
                "name user, context and item features"
            )
        if dot and not (isinstance(feature, IdFeature | IdsFeature) and feature.side == "item"):
            raise ConfigError(
                f"{key}: '{operand}' must be an item feature of kind id or ids; "
                f"'{name}' is {'an' if feature.side == 'item' else 'a'} {feature.side} feature of kind {feature.kind}"
            )

    def _operand_kind(self, operand: str) -> set[str]:
        """What an operand can serve as: `id`, `list` or `number`; `bucket` tells one that is a number cut."""
        feature = self.features[operand.rpartition(".")[2]]
        if "." in operand or isinstance(feature, IdsFeature):
            return {"list"}
        if isinstance(feature, BucketFeature):
            return {"id", "number", "bucket"}
        return {"number"} if isinstance(feature, NumberFeature) else {"id"}

    def of_items(self, operand: str) -> str | None:
        """The item feature that a history's operand speaks of, None for other operands."""
        if "." in operand:
            return operand.rpartition(".")[2]
        return self.histories()[operand].of if operand in self.histories() else None

    def history_of(self, operand: str) -> str:
        """The history that an operand such as `HISTORY` or `HISTORY.FEATURE` is of; the operand where it is of none."""
        return operand.rpartition(".")[0] or operand

    def filters(self) -> list[str]:
        """The item features by which a request may filter retrieval."""
        return [n for n, f in self.features.items() if isinstance(f, IdFeature | IdsFeature) and f.filter]

    def past_operands(self) -> list[str]:
        """The operands of derived features that are of histories."""
        operands = (operand for feature in self.derived().values() for operand in feature.operands)
        return list(dict.fromkeys(operand for operand in operands if self.of_items(operand)))

    def column(self, name: str) -> str:
        feature = self.features[name]
        return (feature.column if isinstance(feature, ColumnFeature) else None) or name

    def side(self, name: str) -> Side:
        """As declared, or that of the operands: `context` where user and context meet, `cross` where query and item."""
        return self._sides[name]

    @cached_property
    def _sides(self) -> dict[str, Side]:
        own = {n: f.side for n, f in self.features.items() if isinstance(f, ColumnFeature)}
        return own | {n: self._met(own, f) for n, f in self.features.items() if isinstance(f, DerivedFeature)}

    def _met(self, own: dict[str, Side], feature: DerivedFeature) -> Side:
        sides = {own[self.history_of(operand)] for operand in feature.operands}
        if len(sides) == 1:
            return sides.pop()
        return "cross" if "item" in sides else "context"

    def placement(self, name: str) -> Placement:
        side = self.side(name)
        return "query" if side == "user" or side == "context" else side

    def placed(self, placement: Placement) -> Placed:
        return self._placed[placement]

    @cached_property
    def _placed(self) -> dict[Placement, Placed]:
        return {placement: self._at(placement) for placement in PLACEMENTS}

    def _at(self, placement: Placement) -> Placed:
        here = [(n, f) for n, f in self.features.items() if self.placement(n) == placement]
        lists = [n for n, f in here if isinstance(f, IdsFeature)]
        return Placed(
            ids=tuple(n for n, f in here if is_embedded(f) and n not in lists),
            lists=tuple(lists),
            numbers=tuple(n for n, f in here if not is_embedded(f)),
        )

    def table_of(self, name: str) -> str:
        """The feature that owns the embedding table of `name`: a history shares that of its items."""
        feature = self.features[name]
        return feature.of.rpartition(".")[2] if isinstance(feature, IdsFeature) and feature.of else name

    def embedded(self) -> dict[str, Embedded]:
        return {n: f for n, f in self.features.items() if is_embedded(f)}  # type: ignore[misc]

    def columns(self, placement: Placement | None = None) -> dict[str, ColumnFeature]:
        """The features that are read from a column, all or those of one placement."""
        return self._columns[placement]

    @cached_property
    def _columns(self) -> dict[Placement | None, dict[str, ColumnFeature]]:
        found: dict[str, ColumnFeature] = {
            n: f
            for n, f in self.features.items()
            if isinstance(f, ColumnFeature) and not (isinstance(f, IdsFeature) and f.of is not None)
        }
        return {None: found} | {
            p: {n: f for n, f in found.items() if self.placement(n) == p} for p in PLACEMENTS
        }

    def histories(self) -> dict[str, IdsFeature]:
        return self._histories

    @cached_property
    def _histories(self) -> dict[str, IdsFeature]:
        lists = {n: f for n, f in self.features.items() if isinstance(f, IdsFeature)}
        return {n: f for n, f in lists.items() if f.of is not None and not f.attribute}

    def attributes(self) -> dict[str, tuple[str, str]]:
        """The lists that are attributes of a history's items: the history, and the item feature."""
        return self._attributes

    @cached_property
    def _attributes(self) -> dict[str, tuple[str, str]]:
        lists = {n: f for n, f in self.features.items() if isinstance(f, IdsFeature)}
        return {n: f.attribute for n, f in lists.items() if f.attribute}

    def derived(self, placement: Placement | None = None) -> dict[str, DerivedFeature]:
        """The crosses and priors, all or those of one placement."""
        return self._derived[placement]

    @cached_property
    def _derived(self) -> dict[Placement | None, dict[str, DerivedFeature]]:
        found: dict[str, DerivedFeature] = {
            n: f for n, f in self.features.items() if isinstance(f, DerivedFeature)
        }
        return {None: found} | {
            p: {n: f for n, f in found.items() if self.placement(n) == p} for p in PLACEMENTS
        }

    def priors(self, placement: Placement | None = None) -> dict[str, PriorFeature]:
        return {n: f for n, f in self.derived(placement).items() if isinstance(f, PriorFeature)}

    def check(self, data: DataSettings) -> None:
        """Raise ConfigError if a feature names a label or a column that the log does not have."""
        for name, history in self.histories().items():
            if history.event is not None and history.event not in data.labels:
                raise ConfigError(
                    f"features.{name}.event: no label '{history.event}'; data.labels are {', '.join(data.labels)}"
                )
            if self.column(history.of or "") != data.item:
                raise ConfigError(
                    f"features.{name}.of: a history holds items, so it must be of the feature over "
                    f"data.item ('{data.item}'); received '{history.of}'"
                )
        for name, prior in self.priors().items():
            if prior.label is not None and prior.label not in data.labels:
                raise ConfigError(
                    f"features.{name}.label: no label '{prior.label}'; data.labels are {', '.join(data.labels)}"
                )

    def refuse(self, names: Iterable[str], allowed: Placement, key: str) -> None:
        """Raise ConfigError unless every feature exists and is of the `allowed` placement.

        A history that shares the item's table is a query feature; the item id itself is not.
        """
        for name in names:
            if name not in self.features:
                raise ConfigError(f"{key}: no feature '{name}' is declared under features")
            found = self.placement(name)
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

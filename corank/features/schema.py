"""All features of a config: the side of each, what may enter which tower, which embedding table it reads.

Which features belong to histories, and which tables of events to features.
"""

from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass
from datetime import timedelta
from functools import cached_property
from typing import Literal

from corank.core.errors import ConfigError
from corank.features.encoding import PLACEMENTS, RECORD_PLACEMENTS, Placement, RowFeatures
from corank.features.feature_kind import ColumnFeature, DerivedFeature, FeatureKind, FeatureSet, Side, Use
from corank.features.log_schema import DataSettings
from corank.features.operands import OperandNames
from corank.features.priors import CountedFeature


@dataclass(frozen=True)
class Schema(FeatureSet):
    """All features of a config, in its order. Raises ConfigError where they contradict each other."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", {n: f.inherit(self.features) for n, f in self.features.items()})
        for name, feature in self.features.items():
            if "." in name:
                raise ConfigError(f"features.{name}: a name has no dot: that is for `HISTORY.FEATURE`")
            feature.check(name, self)
        if unread := self.unread(attended=self.histories()):
            raise ConfigError(f"features.{unread[0]}: nothing reads it; drop it, or input: false")

    @cached_property
    def operand_placements(self) -> dict[str, Placement]:
        """Whose rows have each operand of derived features; one of a history is of the query's."""
        operands = (operand for feature in self.derived().values() for operand in feature.operands)
        return {operand: self.placement(self.history_of(operand)) for operand in operands}

    def operand_names(
        self, placement: Placement, features: Iterable[DerivedFeature] | None = None
    ) -> OperandNames:
        """What derived features, and those that these compare, take of a placement; all, filters, pages unless given.

        The items of a history have what derived features take of the history.
        """
        names: dict[Literal["keys", "lists", "numbers"], dict[str, None]] = {
            "keys": {},
            "lists": {},
            "numbers": {},
        }
        events = {*self.parallels(), *self.histories()}  # the events of histories have what these are
        derived = self.derived()
        for feature in derived.values() if features is None else self.with_compared(features):
            for operand, needed in zip(feature.operands, feature.operand_uses, strict=True):
                of_items = self.of_items(operand)
                name = of_items or operand
                if self.placement(name) == placement and name not in events and name not in derived:
                    uses = self.features[name].uses
                    taken = uses if of_items else uses.intersection(needed)
                    if "vector" not in taken:
                        names[_part(taken)][name] = None
        if placement == "item" and features is None:
            for name in (*self.filters(), *self.on_page()):
                names[_part(self.features[name].uses)][name] = None
        return OperandNames(*map(tuple, names.values()))

    def with_compared(self, features: Iterable[DerivedFeature]) -> list[DerivedFeature]:
        """Add those derived features that are operands of some others."""
        feature_list, derived = list(features), self.derived()
        return feature_list + [
            derived[name] for feature in feature_list for name in feature.operands if name in derived
        ]

    def history_operands(self) -> list[str]:
        """The operands of derived features that are of histories."""
        operands = (operand for feature in self.derived().values() for operand in feature.operands)
        return list(dict.fromkeys(o for o in operands if self.history_of(o) in self.histories()))

    def unread(self, without: Collection[str] = (), attended: Collection[str] = ()) -> list[str]:
        """Name the features that no network, other feature or filter reads.

        Args:
            without: features that are taken as not there.
            attended: histories that some network attends to.
        """
        read = {part for n in self.features if n not in without for part in self.needs(n)}.union(attended)
        others = {
            n
            for n, f in self.features.items()
            if not (f.is_input or f.filterable or f.on_page or n in without)
        }
        return [n for n in self.features if n in others - read]

    def needs(self, name: str) -> set[str]:
        """The features that a feature is made of: its operands, a history's items, whose table it shares."""
        feature, names = self.features[name], {self.table_of(name)}
        if (derived := feature.as_derived) is not None:
            names |= {part for operand in derived.operands for part in operand.split(".")}
        return (names | {*(feature.attribute or ()), *filter(None, [feature.parallel])}) - {name}

    # Placements

    def placement(self, name: str) -> Placement:
        """Whose rows a feature is stored with."""
        return self._placements[name]

    @cached_property
    def _placements(self) -> dict[str, Placement]:
        return {name: self._placement_of(name) for name in self.features}

    def _placement_of(self, name: str) -> Placement:
        side, derived = self.side(name), self.features[name].as_derived
        if side == "item" and derived is not None and derived.snapshot_every is not None:
            return "snapshot"
        return "query" if side == "user" or side == "context" else side

    def row_features(self, placement: Placement) -> RowFeatures:
        """The inputs and vectors of a placement, in the order of its encoded arrays."""
        return self._row_features[placement]

    @cached_property
    def record_features(self) -> RowFeatures:
        """The features of an item's record in a bundle: those of its row, then those of its snapshot."""
        parts = (astuple(self.row_features(placement)) for placement in RECORD_PLACEMENTS)
        return RowFeatures(*(row + snapshot for row, snapshot in zip(*parts, strict=True)))

    @cached_property
    def _row_features(self) -> dict[Placement, RowFeatures]:
        return {placement: self._at(placement) for placement in PLACEMENTS}

    def _at(self, placement: Placement) -> RowFeatures:
        here = {
            name: feature
            for name, feature in self.features.items()
            # vectors and histories that are but operands are kept here, too
            if self.placement(name) == placement
            and (feature.is_input or feature.storage == "vector" or feature.as_history)
        }
        ids, lists, numbers, vectors = (
            tuple(n for n, f in here.items() if f.storage == storage)
            for storage in ("id", "list", "number", "vector")
        )
        return RowFeatures(ids, lists, numbers, tuple(here[n].width for n in numbers), vectors)

    # Groups of features

    def filters(self) -> list[str]:
        """The item features by which a request may filter retrieval."""
        return [n for n, f in self.features.items() if f.filterable]

    def on_page(self) -> list[str]:
        """The item features whose values a page reads; vectors are in the encoded rows."""
        return [n for n, f in self.features.items() if f.on_page and "vector" not in f.uses]

    def inputs(self) -> dict[str, FeatureKind]:
        """The features that networks may read; others are but operands of derived ones, and filters."""
        return {n: f for n, f in self.features.items() if f.is_input}

    def embedded(self) -> dict[str, FeatureKind]:
        """The inputs with codes, whose `width` is the dimension of their table."""
        return {n: f for n, f in self.inputs().items() if f.storage in ("id", "list")}

    def table_of(self, name: str) -> str:
        """The feature that owns the embedding table of `name`: a history shares that of its items."""
        return self.features[name].table_owner(name)

    def parallels_of(self, history: str) -> list[str]:
        """The lists that are attributes of the events of one history."""
        return [name for name, of in self.parallels().items() if of == history]

    def attributes(self) -> dict[str, tuple[str, str]]:
        """The lists that are attributes of a history's items: the history, and the item feature."""
        return self._attributes

    @cached_property
    def _attributes(self) -> dict[str, tuple[str, str]]:
        return {n: f.attribute for n, f in self.features.items() if f.attribute}

    def derived(self, placement: Placement | None = None) -> dict[str, DerivedFeature]:
        """The features made of others, all or those of one placement."""
        return self._derived[placement]

    @cached_property
    def _derived(self) -> dict[Placement | None, dict[str, DerivedFeature]]:
        features = {n: d for n, f in self.features.items() if (d := f.as_derived) is not None}
        return {None: features} | {
            p: {n: f for n, f in features.items() if self.placement(n) == p} for p in PLACEMENTS
        }

    def priors(self, placement: Placement | None = None) -> dict[str, CountedFeature]:
        """The features that count earlier candidates, all or those of one placement."""
        return {n: p for n, f in self.derived(placement).items() if (p := f.as_prior) is not None}

    def snapshots(self) -> dict[str, timedelta]:
        """The step at which each derived feature changes that does by step: priors, and ages of items."""
        steps = {n: f.snapshot_every for n, f in self.derived().items()}
        steps |= {n: prior.every for n, prior in self.priors().items()}
        return {n: every for n, every in steps.items() if every}

    # Columns

    def columns(self, placement: Placement | None = None) -> dict[str, ColumnFeature]:
        """The features that are read from a column, all or those of one placement."""
        return self._columns[placement]

    @cached_property
    def _columns(self) -> dict[Placement | None, dict[str, ColumnFeature]]:
        features = {n: c for n, f in self.features.items() if (c := f.as_column) is not None}
        return {None: features} | {
            p: {n: f for n, f in features.items() if self.placement(n) == p} for p in PLACEMENTS
        }

    def columns_of(self, name: str) -> list[str]:
        """All columns that a feature of a column is read from, its own first."""
        return [self.column(name), *self.columns()[name].more_columns]

    def column_names(self, names: Iterable[str] | None = None, side: Side | None = None) -> list[str]:
        """The distinct columns that features read: of all, of some, of those of one side."""
        chosen = self.columns() if names is None else {n: self.columns()[n] for n in names}
        return list(
            dict.fromkeys(c for n, f in chosen.items() if side in (None, f.side) for c in self.columns_of(n))
        )

    # What others ask of the features

    def check_data(self, data: DataSettings) -> None:
        """Raise ConfigError if a feature names a label or a column that the log does not have."""
        for name, feature in self.features.items():
            feature.check_data(name, self, data)
        refuse_idle_tables(self, data)
        law = data.satiation
        if law is not None and law.of not in self.row_features("item").ids:
            raise ConfigError(
                f"data.satiation.of: '{law.of}' is no item feature of one code; there are "
                f"{', '.join(self.row_features('item').ids) or 'none'}"
            )

    def check_tower(self, names: Iterable[str], allowed: Placement, key: str) -> None:
        """Raise ConfigError unless every feature exists and is of the `allowed` placement.

        A history that shares the item's table is a query feature; the item id itself is not.
        """
        for name in names:
            if name not in self.features:
                raise ConfigError(f"{key}: no feature '{name}' is declared under features")
            if name not in self.inputs():
                raise ConfigError(f"{key}: '{name}' is no input (features.{name}.input: false); drop one")
            placement = "item" if self.placement(name) == "snapshot" else self.placement(name)
            if placement != allowed:
                article = "an" if placement == "item" else "a"
                reason = {
                    "query": "at serving time the query tower runs once a request and does not know the item",
                    "item": "item vectors are computed ahead of any request and do not know the query",
                    "cross": "",
                }[allowed]
                raise ConfigError(
                    f"{key}: '{name}' is {article} {placement} feature and cannot enter the {allowed} tower: {reason}; "
                    "leave it to a ranker stage"
                )


def _part(taken: Collection[Use]) -> Literal["keys", "lists", "numbers"]:
    if "list" in taken:
        return "lists"
    return "keys" if "id" in taken or "key" in taken else "numbers"


def plain_columns(schema: Schema, placement: Placement) -> dict[str, ColumnFeature]:
    """Select the features of a placement that are encoded value by value: those of a column, histories left out."""
    past = schema.histories().keys() | schema.parallels().keys()
    return {n: f for n, f in schema.columns(placement).items() if n not in past}


def events_table(schema: Schema, name: str) -> str | None:
    """Return the table of `data.events` that a feature's column is of, if it is a history's, or parallel to one."""
    history = schema.histories().get(schema.parallels().get(name, name))
    return history.table if history else None


def refuse_idle_tables(schema: Schema, data: DataSettings) -> None:
    """Raise ConfigError for a table of events that no feature reads."""
    read = {history.table for history in schema.histories().values()} | {
        p.events for p in schema.priors().values()
    }
    for name in data.events:
        if name not in read:
            raise ConfigError(f"data.events.{name}: no feature reads it; drop it, or add a history or prior")

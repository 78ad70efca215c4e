"""All features of a config: the side of each, what may enter which tower, which embedding table it reads.

Which features belong to histories, and which tables of events to features.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from corank.core.errors import ConfigError
from corank.features.encoding import RowFeatures
from corank.features.feature_kind import ColumnFeature, DerivedFeature, FeatureKind, Side, Use
from corank.features.history_events import History
from corank.features.log_schema import DataSettings

if TYPE_CHECKING:
    from corank.features.priors import CountedFeature


Placement = Literal["query", "item", "snapshot", "cross"]
"""Whose rows a feature is stored with: a request's, an item's, an item's at a snapshot, or a pair's.

A `snapshot` feature is of the item and changes step by step with the time of the request. Its values lie next to the
item row: in packed data with each candidate, in a bundle with each item.
"""
PLACEMENTS: tuple[Placement, ...] = ("query", "item", "snapshot", "cross")
RECORD_PLACEMENTS: tuple[Placement, ...] = ("item", "snapshot")
"""Those whose features are in an item's record, in this order."""
CANDIDATE_PLACEMENTS: tuple[Placement, ...] = ("snapshot", "cross")
"""Those with a row for each candidate of packed data."""


@dataclass(frozen=True)
class Schema:
    """All features of a config, in its order. Raises ConfigError where they contradict each other."""

    features: Mapping[str, FeatureKind]

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", {n: f.inherit(self.features) for n, f in self.features.items()})
        for name, feature in self.features.items():
            if "." in name:
                raise ConfigError(
                    f"features.{name}: a name must not contain a dot, which is reserved for `HISTORY.FEATURE`"
                )
            feature.check(name, self)
        if unread := self.unread(attended=self.histories()):
            raise ConfigError(
                f"features.{unread[0]}: no network reads it, and no derived feature does; drop it, or input: false"
            )

    # Operands of derived features

    def check_operand(self, key: str, operand: str, any_of: bool = False) -> None:
        """Raise ConfigError unless it is a feature of a column (`any_of`: any) or an attribute of a history's items."""
        history, dot, name = operand.rpartition(".")
        if dot and self.of_items(history) is None:
            raise ConfigError(
                f"{key}: '{operand}' is an attribute of a history, but '{history}' is none of items; "
                f"histories are {', '.join(self.histories()) or 'not declared'}"
            )
        feature = self.features.get(name)
        if feature is None:
            raise ConfigError(f"{key}: no feature '{name}' is declared under features")
        if not any_of and feature.as_column is None and feature.as_history is None:
            raise ConfigError(f"{key}: '{name}' is itself made of others; name features of columns")
        side = self._side_of(name)
        if not any_of and side == "cross":
            raise ConfigError(
                f"{key}: '{name}' is logged with the pair, and unknown where the pair was not; "
                "name user, context and item features"
            )
        if dot and (side != "item" or feature.uses.isdisjoint({"id", "list", "vector"})):
            raise ConfigError(
                f"{key}: '{operand}' must be an item feature of kind id, ids or vector; "
                f"'{name}' is {'an' if side == 'item' else 'a'} {side} feature of kind {feature.kind}"
            )

    def uses_of(self, operand: str) -> frozenset[Use]:
        """What a derived feature may take of an operand. Of a history's items it takes lists, or their mean vector."""
        history, _, name = operand.rpartition(".")
        if not history:
            return self.features[name].uses
        return frozenset({"vector"} if "vector" in self.features[name].uses else {"list"})

    def of_items(self, operand: str) -> str | None:
        """The item feature that a history's operand speaks of, None for other operands."""
        if "." in operand:
            return operand.rpartition(".")[2]
        return past.of if (past := self.histories().get(operand)) and not past.values else None

    def history_of(self, operand: str) -> str:
        """The history that an operand such as `HISTORY` or `HISTORY.FEATURE` is of; the operand where it is of none."""
        return operand.rpartition(".")[0] or operand

    def events_of(self, operand: str) -> str:
        """The history to whose events the values of an operand belong; the operand where they belong to none."""
        return self.parallels().get(operand, self.history_of(operand))

    @cached_property
    def operand_placements(self) -> dict[str, Placement]:
        """Whose rows have each operand of derived features; one of a history is of the query's."""
        operands = (operand for feature in self.derived().values() for operand in feature.operands)
        return {operand: self.placement(self.history_of(operand)) for operand in operands}

    def history_operands(self) -> list[str]:
        """The operands of derived features that are of histories."""
        operands = (operand for feature in self.derived().values() for operand in feature.operands)
        return list(dict.fromkeys(o for o in operands if self.history_of(o) in self.histories()))

    def history_items(self) -> list[str]:
        """The features that a history may be `of`: of items, with one code that is the value's own."""
        coded = {n: f.as_column for n, f in self.features.items() if f.storage == "id" and "id" in f.uses}
        return [n for n, column in coded.items() if column and column.side == "item"]

    def unread(self, without: Collection[str] = (), attended: Collection[str] = ()) -> list[str]:
        """Name the features that no network, other feature or filter reads.

        Args:
            without: features that are taken as not there.
            attended: histories that some network attends to.
        """
        read = {part for n in self.features if n not in without for part in self.needs(n)}.union(attended)
        others = {n for n, f in self.features.items() if not (f.is_input or f.filterable or n in without)}
        return [n for n in self.features if n in others - read]

    def needs(self, name: str) -> set[str]:
        """The features that a feature is made of: its operands, a history's items, whose table it shares."""
        feature, names = self.features[name], {self.table_of(name)}
        if (derived := feature.as_derived) is not None:
            names |= {part for operand in derived.operands for part in operand.split(".")}
        return (names | {*(feature.attribute or ()), *filter(None, [feature.parallel])}) - {name}

    # OperandRows and placements

    def _side_of(self, name: str, asking: tuple[str, ...] = ()) -> Side:
        """The side of a feature; `asking`: those made of it whose side is sought, the first to ask first."""
        if name in asking:
            circle = " → ".join([*asking[asking.index(name) :], name])
            raise ConfigError(f"features.{name}: is made of itself ({circle}); name features of columns")
        if name not in self.features:
            raise ConfigError(f"features.{asking[-1]}: no feature '{name}' is declared under features")
        return self.features[name].side_among(lambda part: self._side_of(part, (*asking, name)))

    @cached_property
    def _sides(self) -> dict[str, Side]:
        return {name: self._side_of(name) for name in self.features}

    def side(self, name: str) -> Side:
        """The declared side, or for a derived feature that of its operands."""
        return self._sides[name]

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

    def inputs(self) -> dict[str, FeatureKind]:
        """The features that networks may read; others are but operands of derived ones, and filters."""
        return {n: f for n, f in self.features.items() if f.is_input}

    def embedded(self) -> dict[str, FeatureKind]:
        """The inputs with codes, whose `width` is the dimension of their table."""
        return {n: f for n, f in self.inputs().items() if f.storage in ("id", "list")}

    def table_of(self, name: str) -> str:
        """The feature that owns the embedding table of `name`: a history shares that of its items."""
        return self.features[name].table_owner(name)

    def histories(self) -> dict[str, History]:
        """The histories of the user."""
        return self._histories

    @cached_property
    def _histories(self) -> dict[str, History]:
        histories = {n: h for n, f in self.features.items() if (h := f.as_history) is not None}
        return {n: h if h.of else replace(h, of=n, values=self.column(n)) for n, h in histories.items()}

    def parallels(self) -> dict[str, str]:
        """The lists that are attributes of a history's events: the history."""
        return self._parallels

    @cached_property
    def _parallels(self) -> dict[str, str]:
        return {n: f.parallel for n, f in self.features.items() if f.parallel}

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

    def priors(self, placement: Placement | None = None) -> dict[str, "CountedFeature"]:
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

    def column(self, name: str) -> str:
        """The column that a feature is read from; of other features their name."""
        feature = self.columns().get(name)
        return (feature.column if feature else None) or name

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

    def check_tower(self, names: Iterable[str], allowed: Placement, key: str) -> None:
        """Raise ConfigError unless every feature exists and is of the `allowed` placement.

        A history that shares the item's table is a query feature; the item id itself is not.
        """
        for name in names:
            if name not in self.features:
                raise ConfigError(f"{key}: no feature '{name}' is declared under features")
            if name not in self.inputs():
                raise ConfigError(
                    f"{key}: '{name}' is no input (features.{name}.input: false); drop one of both"
                )
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
            raise ConfigError(
                f"data.events.{name}: no feature reads it; drop it, or add a history or a prior of it"
            )

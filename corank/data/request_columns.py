"""The tables that columns are read from, by name, and the columns that a ranking request carries, and where."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Self

from corank.features.log_schema import DataSettings
from corank.features.schema import Schema, events_table

Source = Literal["log", "items", "users", "events"]


@dataclass(frozen=True)
class RequestColumns:
    """Columns of a request by part, each distinct, in the order of the features."""

    user: tuple[str, ...]
    """Of the user; the column of the id, which requests call `id`, is left out."""
    histories: tuple[str, ...]
    """Of the user, too: lists of item ids, or of values. A history of list columns is among the columns, by these."""
    context: tuple[str, ...]
    cross: tuple[str, ...]
    """Of each candidate: features of the pair."""
    values: tuple[str, ...]
    """Of each candidate: those of the data's `columns` that are not of the items."""
    item: tuple[str, ...]
    """Of a candidate that the bundle does not know, without the column of the id."""

    @classmethod
    def of(cls, schema: Schema, data: DataSettings, item_columns: Collection[str]) -> Self:
        """Find the columns from features, the settings of the log and those of its `columns` that are of items."""
        histories = schema.histories()
        columns = [name for name in schema.columns() if not events_table(schema, name)]
        return cls(
            user=_distinct(schema.column_names(columns, side="user"), data.user),
            histories=tuple(name for name, history in histories.items() if history.lists is None),
            context=_distinct(schema.column_names(side="context")),
            cross=_distinct(schema.column_names(side="cross")),
            values=tuple(column for column in data.columns if column not in item_columns),
            item=_distinct([*schema.column_names(side="item"), *item_columns], data.item),
        )


def _distinct(columns: list[str], without: str | None = None) -> tuple[str, ...]:
    return tuple(column for column in dict.fromkeys(columns) if column != without)

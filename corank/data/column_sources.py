"""Which table each column of the config is read from."""

from collections.abc import Mapping

import polars as pl

from corank.core.errors import ConfigError, DataError
from corank.core.time import LATEST, format_time
from corank.data.event_tables import EventColumns
from corank.data.null_texts import name_among_numbers
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.data.validate import check_rows, value_checks
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema, events_table

EARLY = 10**10
"""Ms, 116 days; a time in seconds since 1970 is below it until the year 2286."""


def find_sources(
    schema: Schema,
    data: DataSettings,
    log: Table,
    items: Table | None,
    users: Table | None,
    events: Mapping[str, Table],
) -> dict[str, Source]:
    """Find the table that each feature of a column is read from.

    An item feature is read from `items`, a user feature from `users` if it has the column, any other from the log. The
    item's id is of `items`, the user's id of `users`, with or without such a table. An attribute of events is read from
    where their history is: its events table, or the table with its lists.

    Returns:
        Feature → table.

    Raises:
        DataError: no table has the column, or its type does not fit the feature's kind.
        ConfigError: an item feature, and no table of items; or events are counted by a feature that they do not have.
    """
    of_items = [history.table for history in schema.histories().values() if not history.values]
    for table in filter(None, [*of_items, *(prior.events for prior in schema.priors().values())]):
        events[table].require([EventColumns.of(data.events[table], data).item])
    sources: dict[str, Source] = {}
    tables: dict[Source, Table | None] = {"log": log, "items": items, "users": users}
    parallels = schema.parallels()
    # a history before its parallel lists
    for name, feature in sorted(schema.columns().items(), key=lambda pair: pair[0] in parallels):
        column = schema.column(name)
        if named := events_table(schema, name):
            sources[name] = "events"
            events[named].require([column])
            continue
        sources[name] = (
            sources[parallels[name]] if name in parallels else _source(name, schema, data, tables, log)
        )
        read = tables[sources[name]]
        if read is None:
            continue
        read.require(schema.columns_of(name))
        listing = schema.features[parallels[name]].as_column if name in parallels else None
        if expected := (listing or feature).check_column(parallels.get(name, name), read.types[column]):
            raise read.unfit(column, expected + name_among_numbers(read, column))
    _check_comparisons(schema, sources, tables, events)
    _check_event_keys(schema, sources)
    return sources


def _source(
    name: str, schema: Schema, data: DataSettings, tables: Mapping[Source, Table | None], log: Table
) -> Source:
    """Find the table of a feature that is parallel to no history. Raises DataError, ConfigError as `find_sources`."""
    side, column = schema.columns()[name].side, schema.column(name)
    items, users = tables["items"], tables["users"]
    if side == "item":
        if column != data.item:
            if items is None:
                raise ConfigError(
                    f"features.{name}: an item feature is read from `data.items`, which is not given; "
                    f"without it only the item id ('{data.item}') can be one"
                )
            items.require([column])
        return "items"
    if side == "user" and (column == data.user or (users is not None and column in users.types)):
        return "users"
    if column not in log.types and side == "user" and users is not None:
        users.require([column])
    log.require([column])
    return "log"


def _check_event_keys(schema: Schema, sources: Mapping[str, Source]) -> None:
    """Raise ConfigError for a prior of events by a user feature of the log, which events do not have."""
    for name, prior in schema.derived().items():
        counted = prior.as_prior
        if counted is not None and counted.events is not None:
            for key in prior.operands:
                if sources[key] == "log":
                    raise ConfigError(
                        f"features.{name}.by: '{key}' is read from the log, and the events of '{counted.events}' do "
                        f"not have it; put the column '{schema.column(key)}' into the table of users, or drop the key"
                    )


def _check_comparisons(
    schema: Schema,
    sources: dict[str, Source],
    tables: dict[Source, Table | None],
    events: Mapping[str, Table],
) -> None:
    """Raise DataError if a cross looks for text in a list of numbers, or the reverse: it would find nothing."""

    def is_text(operand: str) -> bool | None:
        name = schema.of_items(operand) or operand
        column, table = schema.column(name), tables.get(sources[name])
        if sources[name] == "events":
            table = events[str(events_table(schema, name))]
        if table is None or column not in table.types:
            # the id of an item or a user without a table of its own
            table = tables["log"]
        kind = table.types.get(column) if table else None
        while isinstance(kind, pl.List | pl.Array):
            kind = kind.inner  # type: ignore[assignment]
        if kind is None or kind == pl.Null:
            return None
        return kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum)

    for name, feature in schema.derived().items():
        if feature.compares:
            kinds = {operand: is_text(operand) for operand in feature.operands}
            if set(kinds.values()) == {True, False}:
                types = ", ".join(
                    f"'{n}' is {'text' if text else 'whole numbers'}" for n, text in kinds.items()
                )
                raise DataError(
                    f"features.{name}.{feature.operands_key}: {types}, so that no value of one can be found in "
                    "the other; write both alike"
                )


def check_times(
    schema: Schema, sources: Mapping[str, Source], tables: Mapping[str, Table | None], first: int
) -> None:
    """Raise DataError for a feature of kind time whose whole numbers are of another unit than ms since 1970.

    They are if all of them are within EARLY of 1970 and the log is not, or if all are later than the year 9999.

    Args:
        schema: the features.
        sources: the table of each feature of a column.
        tables: by that name.
        first: the first time of the log, ms UTC.
    """
    for name, feature in schema.columns().items():
        table, column = tables.get(sources[name]), schema.column(name)
        if "time" not in feature.uses or table is None or not table.types[column].is_integer():
            continue
        values = pl.col(column)
        low, high = table.collect(table.frame.select(low=values.min(), high=values.max())).row(0)
        if low is None:
            continue
        if low > LATEST:
            when, units = "after the year 9999", "microseconds divided by 1000, nanoseconds by 1000000"
        elif max(-low, high) < EARLY <= first:
            when, units = "within four months of 1970", "seconds times 1000, days times 86400000"
        else:
            continue
        raise DataError(
            f"data.{table.name}: column '{column}' holds {low} to {high}; features.{name} is of kind time and "
            f"reads whole numbers as ms since 1970: these are all {when}, and the log begins at "
            f"{format_time(first)}; write ms ({units}), datetimes or dates"
        )


def feature_columns(schema: Schema, sources: dict[str, Source], table: Source) -> list[str]:
    """List the distinct columns that features are read from in one table."""
    return schema.column_names(name for name, source in sources.items() if source == table)


def find_value_sources(data: DataSettings, log: Table, items: Table | None) -> dict[str, Source]:
    """Find the table that each of the data's `columns` is read from: the log if it has it, otherwise `items`.

    Raises:
        DataError: no table has the column, or an item has no finite number, by which a candidate could not be ordered.
    """
    sources: dict[str, Source] = {}
    for column in data.columns:
        table = log if column in log.types or items is None else items
        if column not in table.types:
            raise DataError(
                f"data.columns: no column '{column}' in the log{'' if items is None else ' or the items'}; "
                f"the log has {', '.join(log.types)}"
            )
        if table is not log:  # that of the log is checked with its other columns
            check_rows(table, value_checks(table, [column], [data.item]))
        sources[column] = "log" if table is log else "items"
    return sources

"""Columns of a log of lists as features: by type, what a newcomer would write for a table that nobody has described.

Columns of lists have an element a candidate, or are of the request. Those that look as if they were logged after the
click are told apart.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from corank.datasets.list_outcomes import LabelledLists
from corank.datasets.whole_numbers import FEW, WholeNumbers

MOST_CATEGORIES = 1000
"""A column of whole numbers of a table with at most so many values is a category."""
RARE = 5
OFTEN = 100
"""An item that is shown in training less often gets no embedding of its own: its rates and columns say more."""
MOSTLY = 0.5
"""A list with a larger share of candidates of its own impression records what happened to them."""
USUAL_LENGTH = 50
"""A feature of kind ids reads so many values by default."""


@dataclass(frozen=True)
class AlongColumn:
    """A column of lists, with an element a candidate or of the request."""

    name: str
    settings: str
    """Of the feature, in the config's words; blank if it is none."""
    late: str
    """Why it looks as if it was logged after the click; blank if it does not."""


def list_along(
    log: pl.LazyFrame, candidates: str, used: set[str]
) -> tuple[list[str], list[str], dict[str, str]]:
    """Choose the columns that have an element a candidate in every row, and other lists of texts or whole numbers.

    Args:
        log: the impressions.
        candidates: the column of candidates.
        used: columns that have another role.

    Returns:
        The names of both; and all columns of lists without an element a candidate → why they are no such.
    """
    types = log.collect_schema()
    lists = {n: k for n, k in types.items() if isinstance(k, pl.List | pl.Array) and n not in used}
    length = pl.col(candidates).list.len()
    unlike = [(_length(pl.col(n), k) != length).fill_null(True).sum().alias(n) for n, k in lists.items()]
    counts = log.select(*unlike).collect(engine="streaming").row(0, named=True) if lists else {}
    chosen, others, left_out = [], [], {}
    for name, kind in lists.items():
        inner = kind.inner
        if counts[name]:
            left_out[name] = f"{counts[name]:,} lists are of another length than '{candidates}'"
            if isinstance(kind, pl.List) and (inner.is_integer() or inner == pl.String):
                others.append(name)
        elif not (inner.is_numeric() or inner in (pl.Boolean, pl.String)):
            left_out[name] = f"lists of {inner}; expected numbers, text, or true and false"
        else:
            chosen.append(name)
    return chosen, others, left_out


def drop_repeats(log: pl.LazyFrame, candidates: str, along: Sequence[str], label: str | None) -> pl.LazyFrame:
    """Keep one element of a candidate that is in a list twice: the first that was clicked, or else the first.

    Args:
        log: the impressions.
        candidates: the column of candidates.
        along: the columns of lists with an element a candidate.
        label: one of them, which marks clicked candidates by 1; None if none does.
    """
    types, items = log.collect_schema(), pl.col(candidates)
    places = items.list.eval(pl.int_range(pl.len()))
    if label is not None:
        # clicked elements go first; a place is what remains of a number by the number of elements
        others = pl.col(label).list.eval((pl.element().cast(pl.Int64) != 1).fill_null(True).cast(pl.Int64))
        places = (others * items.list.len() + places).list.sort() % items.list.len()
    kept = places.list.gather(items.list.gather(places).list.eval(pl.element().arg_unique())).list.sort()
    lists = [pl.col(n).cast(pl.List(types[n].inner)) for n in (candidates, *along)]  # type: ignore[attr-defined]
    return log.with_columns(
        pl.when(has_repeats(candidates)).then(c.list.gather(kept)).otherwise(c) for c in lists
    )


def has_repeats(candidates: str) -> pl.Expr:
    """Make an expression: whether a list of candidates has one twice."""
    return pl.col(candidates).list.n_unique() < pl.col(candidates).list.len()


def describe_along(
    lists: LabelledLists, names: Sequence[str], named: bool, numbers: WholeNumbers
) -> list[AlongColumn]:
    """Describe columns of lists with an element a candidate as features.

    Args:
        lists: the impressions.
        names: the columns.
        named: whether they were named as features: then one that looks late is described, too.
        numbers: tells ids from numbers.
    """
    if not names:
        return []
    rows = lists.rows(names)
    late = {name: lists.why_late(name, rows) for name in names}
    return [
        AlongColumn(name, "" if why and not named else _settings(rows[name], numbers), why)
        for name, why in late.items()
    ]


def describe_lists(lists: LabelledLists, names: Sequence[str]) -> list[AlongColumn]:
    """Describe columns of lists of texts or whole numbers that are of the request, as features of it."""
    if not names:
        return []
    rows = lists.impressions(names)
    shown = pl.col(lists.candidates).cast(pl.List(pl.String))
    longest = lists.log.select(pl.col(names).list.len().max()).collect(engine="streaming").row(0, named=True)
    columns = []
    for name in names:
        values = pl.col(name).cast(pl.List(pl.String)).list.drop_nulls().list.unique()
        own, among = rows.select(
            values.list.len().sum().alias("own"),
            values.list.set_intersection(shown).list.len().sum().alias("among"),
        ).row(0)
        last = f", last: {longest[name]}" if (longest[name] or 0) > USUAL_LENGTH else ""
        late = (
            f"{among / own:.0%} of its values are candidates of the same impression"
            if among > MOSTLY * own
            else ""
        )
        late = late or lists.why_late_list(name, rows) if own else "its lists hold no value"
        columns.append(AlongColumn(name, f"side: context, kind: ids, min_count: {RARE}{last}", late))
    return columns


def _length(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    return column.list.len() if isinstance(kind, pl.List) else column.arr.len()


def _settings(column: pl.Series, numbers: WholeNumbers) -> str:
    kind = column.dtype
    few = kind.is_integer() and column.n_unique() <= FEW
    if kind == pl.Boolean or few:
        return "side: cross, kind: id"
    if kind == pl.String or (kind.is_integer() and numbers.is_id_in_log(column.name, along=True)):
        return f"side: cross, kind: id, min_count: {RARE}"
    return "side: cross, kind: number, scale: quantile"


def describe_items(table: pl.DataFrame, item: str, numbers: WholeNumbers) -> dict[str, str]:
    """Describe a table of items: a feature for each column that can be one, in the config's words.

    Args:
        table: a row an item.
        item: its column of ids.
        numbers: tells ids from numbers.

    Returns:
        Feature → its settings. Text of which every row has its own, times and structs are left out.
    """
    ids = {item: f"{{side: item, kind: id, min_count: {OFTEN}}}"}
    return _describe_table(table, ids, item, "item", numbers)


def describe_users(table: pl.DataFrame, user: str, numbers: WholeNumbers) -> dict[str, str]:
    """Describe a table of users, as `describe_items` does; the id of a user is described with the log."""
    return _describe_table(table, {}, user, "user", numbers)


def _describe_table(
    table: pl.DataFrame, features: dict[str, str], key: str, side: str, numbers: WholeNumbers
) -> dict[str, str]:
    def is_id(name: str) -> bool:
        return numbers.is_id_in_table(name, table, key, of_items=side == "item")

    for name, column in zip(table.columns, table.iter_columns(), strict=True):
        if name != key and (settings := _describe(column, side, is_id)):
            features[free_name(name, features)] = name_column(name, settings)
    return features


def describe_context(types: pl.Schema, used: set[str], numbers: WholeNumbers) -> dict[str, str]:
    """Describe the columns of a log that are neither keys, labels nor lists; `used` are left out."""
    features: dict[str, str] = {}
    for name, kind in types.items():
        if name in used:
            continue
        text = kind == pl.String or kind == pl.Boolean or isinstance(kind, pl.Categorical | pl.Enum)
        if text or (kind.is_integer() and numbers.is_id_in_log(name)):
            features[free_name(name, features)] = name_column(
                name, f"side: context, kind: id, min_count: {RARE}"
            )
        elif kind.is_numeric():
            features[free_name(name, features)] = name_column(name, "side: context, kind: bucket")
    return features


def _describe(column: pl.Series, side: str, is_id: Callable[[str], bool]) -> str | None:
    kind = column.dtype
    if isinstance(kind, pl.List | pl.Array):
        inner = kind.inner
        if inner.is_float():
            return None
        whole = inner.is_integer() or inner == pl.String
        return f"side: {side}, kind: ids, min_count: {RARE}" if whole else None
    if kind == pl.Boolean or isinstance(kind, pl.Categorical | pl.Enum):
        return f"side: {side}, kind: id"
    values = column.n_unique() if kind == pl.String or kind.is_integer() else 0
    if kind == pl.String:
        return f"side: {side}, kind: id, min_count: {RARE}" if values <= len(column) // 2 else None
    if kind.is_integer() and (values <= MOST_CATEGORIES or is_id(column.name)):
        own = values > max(MOST_CATEGORIES, len(column) // 2)
        return f"side: {side}, kind: id, min_count: {OFTEN if own else RARE}"
    return f"side: {side}, kind: number, scale: quantile" if kind.is_numeric() else None


def free_name(name: str, taken: dict[str, str]) -> str:
    """A name for a feature: letters, digits and underlines, and not one that is taken."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    plain = plain if plain[:1].isalpha() else f"x{plain}"
    while plain in taken:
        plain += "_"
    return plain


def name_column(column: str, settings: str) -> str:
    """Write a feature's settings, with its column if that cannot be the feature's name."""
    name = free_name(column, {})
    return f"{{{settings}}}" if name == column else f"{{{settings}, column: {json.dumps(column)}}}"


def column_of(name: str, settings: str) -> str:
    """The column of a feature whose settings `name_column` wrote."""
    column = settings.partition(", column: ")[2]
    return str(json.loads(column.removesuffix("}"))) if column else name

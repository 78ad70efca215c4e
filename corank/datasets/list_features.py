"""Features of a log of lists: of its columns by their types, of its tables, of pairs, and of what users met before."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.core.reports import Report
from corank.core.yaml_names import quote
from corank.data.recurrence import (
    EVENTS,
    OFTEN_AGAIN,
    describe_events,
    find_categories,
    measure_recurrence,
    recurrence_features,
)
from corank.datasets.attribute_pairs import ListedLog, describe_pairs
from corank.datasets.clicked_lists import CLICK, ITEM
from corank.datasets.importer import training_rows
from corank.datasets.list_columns import (
    OFTEN,
    column_of,
    describe_along,
    describe_context,
    describe_items,
    describe_lists,
    describe_users,
    free_name,
    list_along,
    name_column,
)
from corank.datasets.list_constants import drop_constants
from corank.datasets.list_files import require_column
from corank.datasets.list_log import LogFacts
from corank.datasets.list_nulls import NullTexts
from corank.datasets.list_outcomes import LabelledLists, find_late_context
from corank.datasets.list_roles import ListRoles
from corank.datasets.list_tables import name_apart, write_items, write_users
from corank.datasets.shown_order import ShownOrder, find_order
from corank.datasets.whole_numbers import WholeNumbers


@dataclass
class ListFeatures:
    """The features, and what else the log says of its columns."""

    lines: dict[str, str]
    """Feature → its settings."""
    along: list[str]
    """Columns with an element a candidate that are features, or the position."""
    left_out: list[str]
    """Columns that are no features, and why."""
    known: list[str]
    """Columns that look as if logged after the click, and are named."""
    order: ShownOrder
    """The positions of candidates."""
    numbers: WholeNumbers
    """Tells ids from numbers."""
    categories: list[str] = field(default_factory=list)
    """Features that say what kind an item is."""
    sized: bool = True
    """Whether the number of a request's candidates is a feature: it differs, or the query has no other."""


def describe_features(
    facts: LogFacts, columns: ListRoles, nulls: NullTexts, out: Path, source: Path, report: Report
) -> ListFeatures:
    """Describe all features, and write the tables of items and users that there are.

    Args:
        facts: of the log that was written.
        columns: settled, which column is what.
        nulls: what stands for nothing in the tables.
        out: the folder of `log.parquet`.
        source: what the log was read of, which errors name.
        report: takes a line about each choice.

    Raises:
        DataError: a column that is named cannot be a feature, or a table cannot be read.
    """
    features = _describe_log(facts, columns, out / "log.parquet", source, report)
    tables = {"log": features.lines} | _write_tables(columns, nulls, out, features.numbers, report)
    training = training_rows(pl.scan_parquet(out / "log.parquet"), columns.time, facts.split)
    for table, lines in tables.items():
        rows = training if table == "log" else _training_table(table, columns, out, training)
        if rows is not None:
            tables[table], constant = drop_constants(lines, rows, {columns.user, columns.item})
            features.left_out += [f"{column}: {why}" for column, why in constant.items()]
            if table == "log":
                features.along = [name for name in features.along if name not in constant]
    features.lines = lines = name_apart(tables, (columns.user, columns.item), report)
    lines |= describe_pairs(lines, _listed(columns, facts, out), columns.label, report)
    features.categories = _find_categories(columns, out, lines)
    lines |= _describe_past(columns, facts.users, training, lines, features.categories)
    sizes = training.select(pl.col(columns.candidates).list.len().n_unique())
    # the pre-ranker's query needs a feature, whatever it tells
    alone = not any(f"side: {side}" in text for text in lines.values() for side in ("user", "context"))
    features.sized = alone or sizes.collect(engine="streaming").item() > 1
    return features


def _training_table(table: str, columns: ListRoles, out: Path, training: pl.LazyFrame) -> pl.LazyFrame | None:
    """The rows of a table whose item is a candidate in training, or whose user asks there; None without a table."""
    path, key = (
        (out / "items.parquet", columns.item) if table == "item" else (out / "users.parquet", columns.user)
    )
    if not path.exists():
        return None
    ids = pl.col(columns.candidates).explode() if table == "item" else pl.col(columns.user)
    shown = training.select(ids.cast(pl.String).alias("@id")).unique()
    return pl.scan_parquet(path).join(shown, left_on=pl.col(key).cast(pl.String), right_on="@id", how="semi")


def _describe_log(
    facts: LogFacts, columns: ListRoles, path: Path, source: Path, report: Report
) -> ListFeatures:
    """Describe user, context and what has an element a candidate. Raises DataError for a column that is no such.

    The log at `path` is what was read of `source`, which errors name.
    """
    log, used = pl.scan_parquet(path), columns.used
    labels, named = columns.names_of("labels"), columns.names_of("along")
    for name in named:
        require_column(source, facts.types, name, "--along", listed=True)
    chosen, others, unlike = list_along(log, columns.candidates, used)
    for name in named:
        if name in unlike:
            raise DataError(f"{source}: column '{name}' (--along): {unlike[name]}")
    training = columns.clicked(training_rows(log, columns.time, facts.split))
    order = find_order(training, chosen, named, columns.position)
    numbers = WholeNumbers(training, columns.user, report)
    marks = dict.fromkeys(labels, True) | dict.fromkeys(columns.names_of("chosen"), False)
    lists = LabelledLists(log, columns.candidates, columns.time, marks)
    late = find_late_context(lists, facts.types, used | order.taken)
    lines = describe_context(facts.types, used | order.taken | late.keys(), numbers)
    if facts.users:
        user = name_column(columns.user, "side: user, kind: id, min_count: 30")
        lines = {free_name(columns.user, {}): user} | lines
    left_out, along, known = [f"{name}: {why}" for name, why in unlike.items() if name not in others], [], []
    for name, settings in describe_context(facts.types, facts.types.keys() - late, numbers).items():
        logged = column_of(name, settings)
        typed = f"{_set('known_before', f'[{quote(logged)}]')} {_set(f'features.{name}', settings)}"
        left_out.append(f"{logged}: {late[logged]}; if it is known before, {typed}")
    for column in describe_lists(lists, others):
        if column.late:
            left_out.append(f"{column.name}: {column.late}")
        else:
            lines[free_name(column.name, lines)] = name_column(column.name, column.settings)
    if order.is_index and order.role == "feature":
        lines[free_name(order.name, lines)] = name_column(order.name, "side: cross, kind: bucket")
    if order.role == "effect" and order.logged in chosen:
        along.append(order.logged)
    tried = [name for name in named or chosen if name not in order.taken]
    described = describe_along(lists, tried, bool(named), numbers)
    honest = [column.name for column in described if not column.late]
    for column in described:
        if column.late and not named:
            all_named = shlex.quote(",".join([*honest, column.name]))
            left_out.append(f"{column.name}: {column.late}; if it is known before, --along {all_named}")
        else:
            along.append(column.name)
            known += [column.name] if column.late else []
            feature = free_name(column.name, lines)
            lines[feature] = name_column(column.name, column.settings)
            if "kind: number" in column.settings:
                lines[free_name(f"{feature}_rank", lines)] = f"{{kind: within, of: {feature}}}"
    return ListFeatures(lines, along, left_out, known, order, numbers)


def _set(key: str, value: str) -> str:
    """The option of a shell that changes a key of the config."""
    return f"--set {shlex.quote(f'{key}={value}')}"


def _find_categories(columns: ListRoles, out: Path, features: dict[str, str]) -> list[str]:
    """Find the features that say what kind an item is, in the table of items in the folder `out`."""
    if columns.items is None:
        return []
    of_items = {name: text for name, text in features.items() if "side: item, kind: id" in text}
    ids = {column_of(name, text): name for name, text in of_items.items() if name != columns.item}
    return find_categories(pl.read_parquet(out / "items.parquet"), ids)


def _describe_past(
    columns: ListRoles, users: bool, training: pl.LazyFrame, features: dict[str, str], categories: list[str]
) -> dict[str, str]:
    """Describe the history that is given, and those of the log's clicks and exposures, where users meet items again.

    A history that is given may end sooner than the log's clicks do, and may be of other events.

    Args:
        columns: of the log.
        users: whether the log names them.
        training: the log's rows that train.
        features: described so far.
        categories: those of items.
    """
    item, lines = columns.item, dict[str, str]()

    def add(name: str, settings: str, timed: bool) -> None:
        history = free_name(name, features)
        told = recurrence_features(history, item, categories, timed)
        lines.update({history: settings} | {free_name(n, features): one for n, one in told.items()})

    if columns.history:
        source = f"of: {quote(item)}, column: {quote(columns.history)}"
        source += f", times: {quote(columns.history_times)}" if columns.history_times else ""
        settings = f"{{side: user, kind: ids, {source}, last: 50}}"
        add("history", settings, timed=bool(columns.history_times))
    shares = _measure_recurrence(columns, training) if users else {}
    for name, share in shares.items():
        if share >= OFTEN_AGAIN:
            add(name, describe_events(name, item, columns.label), timed=True)
    return lines


def _measure_recurrence(columns: ListRoles, log: pl.LazyFrame) -> dict[str, float]:
    """Measure the shares of candidates that the user clicked, or was shown, before."""
    events = {name: pl.col(CLICK) if name == "clicked" else pl.lit(True) for name in EVENTS}
    rows = columns.clicked(log).rows(user=pl.col(columns.user), time=pl.col(columns.time))
    return measure_recurrence(rows, pl.col("user"), pl.col(ITEM), pl.col("time"), events)


def _write_tables(
    columns: ListRoles, nulls: NullTexts, out: Path, numbers: WholeNumbers, report: Report
) -> dict[str, dict[str, str]]:
    """Write the tables of items and users that there are. Returns the features of each. Raises DataError."""
    log = pl.scan_parquet(out / "log.parquet")
    found: dict[str, dict[str, str]] = {
        "item": {columns.item: f"{{side: item, kind: id, min_count: {OFTEN}}}"}
    }
    if columns.items is not None:
        shown = log.select(pl.col(columns.candidates).explode().drop_nulls().unique())
        ids = shown.collect(engine="streaming").to_series()
        items = write_items(columns.items, columns.item, ids, nulls, out / "items.parquet")
        found["item"] = describe_items(items, columns.item, numbers)
    if columns.users is not None:
        ids = log.select(pl.col(columns.user).unique()).collect(engine="streaming").to_series()
        users = write_users(columns.users, columns.user, ids, nulls, out / "users.parquet", report)
        found["user"] = describe_users(users, columns.user, numbers)
    return found


def _listed(columns: ListRoles, facts: LogFacts, out: Path) -> ListedLog:
    """The training days of what was written."""
    files = {"user": columns.users and out / "users.parquet", "item": columns.items and out / "items.parquet"}
    training = training_rows(pl.scan_parquet(out / "log.parquet"), columns.time, facts.split)
    tables = {side: pl.scan_parquet(path) for side, path in files.items() if path}
    return ListedLog(columns.clicked(training), columns.user, columns.item, tables)

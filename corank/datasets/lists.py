"""A log of one's own as corank's tables and a ready config: a row an impression with lists, or a row an exposure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from pydantic import Field

from corank.core.errors import DataError
from corank.core.files import atomic_folder
from corank.core.reports import Report
from corank.core.yaml_names import quote
from corank.data.recurrence import (
    LAST,
    OFTEN_AGAIN,
    describe_events,
    find_categories,
    measure_recurrence,
    recurrence_features,
)
from corank.datasets.attribute_pairs import BUCKETS, ListedLog, describe_pairs
from corank.datasets.exposures import Exposures
from corank.datasets.importer import (
    IMPORTERS,
    TENTHS,
    ImportedSplit,
    Importer,
    refuse_rows,
    split_by_days,
    training_rows,
)
from corank.datasets.list_columns import (
    OFTEN,
    column_of,
    describe_along,
    describe_context,
    describe_items,
    describe_lists,
    describe_users,
    drop_repeats,
    free_name,
    has_repeats,
    list_along,
    name_column,
)
from corank.datasets.list_files import (
    ListFiles,
    as_times,
    is_list,
    read_files,
    readable,
    require_column,
    too_large,
)
from corank.datasets.list_outcomes import LabelledLists, find_late_context
from corank.datasets.list_tables import name_apart, write_items, write_users
from corank.datasets.shown_order import Role, ShownOrder, find_order
from corank.datasets.whole_numbers import WholeNumbers

_FIRST_LABEL = "click"
_BEFORE = "if it is known before, add it as a feature and to known_before"
IMPRESSION, TIME = "impression", "time"
"""Columns that the import adds: the number of an impression, if none of the log names it or its user; its time."""
BEGIN = datetime(2000, 1, 1)
"""The time of the first impression of a log without times; the others are a minute apart."""


@dataclass(frozen=True)
class ListsSummary:
    """The result of an import of lists."""

    impressions: int
    candidates: int
    split: ImportedSplit
    features: tuple[str, ...]


@IMPORTERS.register("lists")
class Lists(Importer):
    """Import a log of your own, in Parquet or CSV: a row an impression with a list of candidates, or a row an exposure.

    Rows of exposures, whose candidate is no list, are grouped by `--request`, or else by `--user` and `--time`.
    """

    source_help = "A Parquet or CSV file, or a folder of such files."
    candidates: str = Field(description="Column: the list of candidates, or the one that was exposed.")
    user: str = Field("", description="Column: the user; by default each request is its own.")
    time: str = Field("", description="Column: when; by default the order of rows counts.")
    labels: str = Field(
        "",
        description="Columns of 0 and 1, in lists of one element a candidate if candidates are; with commas.",
    )
    chosen: str = Field(
        "", description="Columns of lists of the items that were clicked and the like; with commas."
    )
    along: str = Field(
        "",
        description="Columns of lists with an element a candidate, such as its price, as features; with commas. By "
        "default all that are always as long as the candidates and do not look as if logged after the click.",
    )
    request: str = Field(
        "", description="Columns that identify a request, with commas; by default a row of lists is one."
    )
    history: str = Field("", description="Column: a list of the items that the user clicked before.")
    history_times: str = Field("", description="Column: the list of the times of these clicks.")
    position: Role = Field(
        "auto",
        description="What the place in the list becomes: effect, learnt in training and left out by serving; feature; "
        "none; auto: an effect if it is logged, or clicks depend on it.",
    )
    items: Path | None = Field(None, description="A Parquet or CSV file with a row an item.")
    item: str = Field("item_id", description="Its column of ids.")
    users: Path | None = Field(
        None, description="A Parquet or CSV file with a row a user; its column of ids is named as the log's."
    )

    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write log, items and config; see `write_lists`."""
        write_lists(source, out, self, report)


def write_lists(source: Path, out: Path, columns: Lists, report: Report = lambda line: None) -> ListsSummary:
    """Write `log.parquet`, `config.yaml`, and tables of items and users if there are such, whole or not at all.

    Features are chosen by the types of columns, and by what helps on such logs: rates of clicks by item and user, how
    many candidates a request has, what has an element a candidate, lists of the request. Columns that look as if they
    were logged after the click are no features, unless `along` names them. The last days are for validation and
    test, or the last two tenths of the requests (`split_by_days`). Batches and epochs follow the number of requests.

    Args:
        source: a Parquet or CSV file, or a folder of such files.
        out: a folder that is not there or empty.
        columns: which column is what.
        report: takes a line about each step.

    Raises:
        DataError: a file or a column is missing, or a row cannot be read.
    """
    _check_roles(columns)
    with atomic_folder(out) as unfinished, TemporaryDirectory(dir=unfinished) as work:
        with readable(source):
            log = _read_log(source, columns, Path(work), report)
            facts = _write_log(log, columns, unfinished / "log.parquet", report)
        columns = _settle(columns)
        features = _describe_log(facts, columns, unfinished / "log.parquet", source, report)
        tables = {"log": features.lines} | _write_tables(columns, unfinished, features.numbers, report)
        features.lines = lines = name_apart(tables, (columns.user, columns.item), report)
        lines |= describe_pairs(lines, _listed(columns, facts, unfinished), report)
        lines |= _describe_past(columns, facts.users, unfinished, lines)
        text = "".join(_config(columns, facts, features))
        (unfinished / "config.yaml").write_text(text, encoding="utf-8")
        report(f"{facts.impressions:,} impressions, {facts.candidates:,} candidates; split {facts.split}")
        report(f"features: {', '.join(lines)}")
        if features.order.said:
            report(features.order.said)
        for line in features.left_out:
            report(f"left out: {line}")
    return ListsSummary(facts.impressions, facts.candidates, facts.split, tuple(lines))


@dataclass(frozen=True)
class _LogFacts:
    types: pl.Schema
    """Of the impressions."""
    users: bool
    """Whether the log names users; each request is its own otherwise."""
    times: bool
    """Whether the log has times; the order of rows counts otherwise."""
    impressions: int
    candidates: int
    split: ImportedSplit


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _settle(columns: Lists) -> Lists:
    """Name the columns that the import adds where the log has none."""
    return columns.model_copy(update={"user": columns.user or IMPRESSION, "time": columns.time or TIME})


def _used(columns: Lists) -> set[str]:
    """The columns that are no features."""
    named = [columns.candidates, columns.user, columns.time, columns.history, columns.history_times]
    return {*named, *_names(columns.labels), *_names(columns.chosen), *_names(columns.request)}


def _check_roles(columns: Lists) -> None:
    """Raise DataError if a column has two roles, or none labels; what identifies a request may be user and time."""
    if not _names(columns.labels) + _names(columns.chosen):
        raise DataError("import lists: no label; name a column as --labels, or one of lists as --chosen")
    if columns.users is not None and not columns.user:
        raise DataError("import lists: --users is a table of users; name the log's column of users as --user")
    if columns.history_times and not columns.history:
        raise DataError("import lists: --history-times are those of a --history; name its column, too")
    roles = [("--candidates", columns.candidates), ("--history", columns.history)]
    roles += [("--history-times", columns.history_times)]
    for option, names in (("labels", columns.labels), ("chosen", columns.chosen), ("along", columns.along)):
        roles += [(f"--{option}", name) for name in _names(names)]
    request = [("--request", name) for name in _names(columns.request)]
    for others in ([("--user", columns.user), ("--time", columns.time)], request):
        taken: dict[str, str] = {}
        for option, name in (*roles, *others):
            if name and name in taken:
                raise DataError(
                    f"import lists: column '{name}' is named as {taken[name]} and as {option}; name it once"
                )
            taken[name] = option


def _check_names(path: Path, types: pl.Schema, columns: Lists) -> None:
    """Raise DataError if a column has a name that the import gives."""
    if columns.item in types and columns.item != columns.candidates:
        raise DataError(
            f"{path}: column '{columns.item}' has the name that the candidates get (--item); rename it"
        )
    if IMPRESSION in types and not (columns.request and columns.user):
        raise DataError(
            f"{path}: column 'impression' has the name that rows are numbered by; name it as --request, or rename it"
        )
    if TIME in types and not columns.time:
        raise DataError(f"{path}: column 'time' has the name of times; name it as --time, or rename it")


def _check_elements(path: Path, types: pl.Schema, columns: Lists) -> None:
    """Raise DataError for lists of what is no item or no label."""
    for name in _names(columns.labels):
        require_column(path, types, name, "--labels", listed=True)
        inner = types[name].inner  # type: ignore[attr-defined]
        if not (inner.is_numeric() or inner == pl.Boolean):
            raise DataError(f"{path}: column '{name}' (--labels) has lists of {inner}; expected 0 and 1")
    text = None
    items = [("--candidates", columns.candidates), *(("--chosen", name) for name in _names(columns.chosen))]
    for option, name in (*items, *([("--history", columns.history)] if columns.history else [])):
        require_column(path, types, name, option, listed=True)
        inner = types[name].inner  # type: ignore[attr-defined]
        is_text = inner == pl.String or isinstance(inner, pl.Categorical | pl.Enum)
        if not (inner.is_integer() or is_text):
            raise DataError(
                f"{path}: column '{name}' ({option}) has lists of {inner}; expected whole numbers or text"
            )
        if text not in (None, is_text):
            raise DataError(
                f"{path}: column '{name}' ({option}) has lists of {inner}, and '{columns.candidates}' of "
                f"{types[columns.candidates].inner}; write both alike"  # type: ignore[attr-defined]
            )
        text = is_text


def _check_exposures(path: Path, types: pl.Schema, columns: Lists) -> None:
    """Raise DataError for a candidate that is no item, and for lists beside it."""
    kind = types[columns.candidates]
    if not (kind.is_integer() or kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum)):
        raise DataError(
            f"{path}: column '{columns.candidates}' (--candidates) is {kind}; expected whole numbers or text, or lists"
        )
    if columns.chosen:
        raise DataError(
            f"{path}: column '{columns.candidates}' (--candidates) is no list, so that a row is an exposure; name "
            f"columns of 0 and 1 as --labels in place of --chosen {columns.chosen}"
        )
    if columns.history:
        require_column(path, types, columns.history, "--history", listed=True)
    for name in _names(columns.along):
        require_column(path, types, name, "--along")
    for name in _names(columns.labels):
        require_column(path, types, name, "--labels")
        if not (types[name].is_numeric() or types[name] == pl.Boolean):
            raise DataError(f"{path}: column '{name}' (--labels) is {types[name]}; expected 0 and 1")


def _read_log(source: Path, columns: Lists, work: Path, report: Report) -> pl.LazyFrame:
    """Check the rows of the files, one after the other, and group those of exposures, with files in `work`."""
    files = read_files(source)
    labels, request = _names(columns.labels), _names(columns.request)
    require_column(files.first, files.types, columns.candidates, "--candidates")
    options = [(columns.user, "--user"), (columns.time, "--time"), *((name, "--request") for name in request)]
    keys = {name: option for name, option in options if name}
    for name, option in keys.items():
        require_column(files.first, files.types, name, option)
    files = as_times(files, columns.time, report) if columns.time else files
    _check_names(files.first, files.types, columns)
    faults = [(name, pl.col(name).is_null(), "a value in every row") for name in keys]
    faults += too_large(files.types, [*keys, columns.candidates])
    lists = is_list(files.types[columns.candidates])
    (_check_elements if lists else _check_exposures)(files.first, files.types, columns)
    if columns.history_times:
        require_column(files.first, files.types, columns.history_times, "--history-times", listed=True)
        events = pl.col(columns.history).list.len().fill_null(0)
        unlike = pl.col(columns.history_times).list.len().fill_null(0) != events
        faults.append((columns.history_times, unlike, f"a list as long as '{columns.history}'"))
    faults += _list_faults(columns, labels) if lists else _exposure_faults(columns, labels)
    for path, frame in files.frames.items():
        refuse_rows(path, frame, faults)
    return files.rows if lists else _group(files, columns, source, work, report)


def _group(files: ListFiles, columns: Lists, source: Path, work: Path, report: Report) -> pl.LazyFrame:
    """Make lists of rows of exposures."""
    moment = [columns.user, columns.time] if columns.user and columns.time else []
    exposures = Exposures(
        keys=_names(columns.request) or moment,
        listed=[columns.candidates, *_names(columns.labels), *_names(columns.along)],
        single=[name for name in (columns.user, columns.history, columns.history_times) if name],
        time=columns.time,
    )
    return exposures.group(files.rows, source, work, report)


def _write_log(log: pl.LazyFrame, columns: Lists, out: Path, report: Report) -> _LogFacts:
    """Write the impressions in order, numbered if nothing else identifies them, and timed if nothing else does."""
    types = log.collect_schema()
    row, settled = pl.col("@row").cast(pl.Int64), _settle(columns)
    added = [] if columns.request and columns.user else [row.alias(IMPRESSION)]
    if not columns.user:
        report("no --user: each request is its own, and nothing is known of what users did before")
    if not columns.time:
        report(f"no --time: the order of rows counts, with times a minute apart from {BEGIN:%Y-%m-%d} on")
        added.append((BEGIN + pl.duration(minutes=row)).alias(TIME))
    once = _keep_once(log, columns, report)
    once.with_row_index("@row").with_columns(added).drop("@row").sink_parquet(out)
    read = pl.scan_parquet(out)
    day = pl.col(settled.time).cast(pl.Datetime("us")).dt.date()
    days = read.group_by(day.alias("day")).len().sort("day").collect(engine="streaming").rows()
    candidates = read.select(pl.col(columns.candidates).list.len().sum()).collect().item()
    split = split_by_days(days) if columns.time else TENTHS
    return _LogFacts(
        types, bool(columns.user), bool(columns.time), sum(count for _, count in days), candidates or 0, split
    )


def _keep_once(log: pl.LazyFrame, columns: Lists, report: Report) -> pl.LazyFrame:
    """Drop repeated candidates of an impression, since a request has one row of each."""
    repeats = log.select(has_repeats(columns.candidates).sum()).collect(engine="streaming").item()
    if not repeats:
        return log
    having = "1 impression has" if repeats == 1 else f"{repeats:,} impressions have"
    report(f"{having} a candidate twice: the clicked one is kept, or else the first")
    labels, used = _names(columns.labels), _used(columns)
    along, _, _ = list_along(log, columns.candidates, used)
    return drop_repeats(log, columns.candidates, [*labels, *along], labels[0] if labels else None)


@dataclass
class _Features:
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


def _describe_log(facts: _LogFacts, columns: Lists, path: Path, source: Path, report: Report) -> _Features:
    """Describe user, context and what has an element a candidate. Raises DataError for a column that is no such.

    The log at `path` is what was read of `source`, which errors name.
    """
    log, used = pl.scan_parquet(path), _used(columns)
    labels, named = _names(columns.labels), _names(columns.along)
    for name in named:
        require_column(source, facts.types, name, "--along", listed=True)
    chosen, others, unlike = list_along(log, columns.candidates, used)
    for name in named:
        if name in unlike:
            raise DataError(f"{source}: column '{name}' (--along): {unlike[name]}")
    first = (labels or _names(columns.chosen))[0]
    training = training_rows(log, columns.time, facts.split)
    order = find_order(training, columns.candidates, first, bool(labels), chosen, named, columns.position)
    numbers = WholeNumbers(training, columns.candidates, columns.user, first, bool(labels), report)
    marks = dict.fromkeys(labels, True) | dict.fromkeys(_names(columns.chosen), False)
    lists = LabelledLists(log, columns.candidates, columns.time, marks)
    late = find_late_context(lists, facts.types, used | order.taken)
    lines = describe_context(facts.types, used | order.taken | late.keys(), numbers)
    if facts.users:
        user = name_column(columns.user, "side: user, kind: id, min_count: 30")
        lines = {free_name(columns.user, {}): user} | lines
    left_out, along, known = [f"{name}: {why}" for name, why in unlike.items() if name not in others], [], []
    left_out += [f"{name}: {why}; {_BEFORE}" for name, why in late.items()]
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
    for column in describe_along(lists, tried, bool(named), numbers):
        if column.late and not named:
            left_out.append(f"{column.name}: {column.late}; if it is known before, name it as --along")
        else:
            along.append(column.name)
            known += [column.name] if column.late else []
            feature = free_name(column.name, lines)
            lines[feature] = name_column(column.name, column.settings)
            if "kind: number" in column.settings:
                lines[free_name(f"{feature}_rank", lines)] = f"{{kind: within, of: {feature}}}"
    return _Features(lines, along, left_out, known, order, numbers)


def _describe_past(columns: Lists, users: bool, out: Path, features: dict[str, str]) -> dict[str, str]:
    """Describe the history, or those of the log's own candidates where users meet them again, and what they tell.

    Args:
        columns: of the log in the folder `out`.
        users: whether the log names them.
        out: has the log, and the items if there is a table.
        features: described so far.
    """
    item, timed = columns.item, not columns.history or bool(columns.history_times)
    histories: dict[str, str] = {}
    if columns.history:
        source = f"of: {quote(item)}, column: {quote(columns.history)}"
        source += f", times: {quote(columns.history_times)}" if columns.history_times else ""
        histories["history"] = f"{{side: user, kind: ids, {source}, last: 50}}"
    elif users:
        shares = _measure_recurrence(columns, pl.scan_parquet(out / "log.parquet"))
        common = [name for name, share in shares.items() if share >= OFTEN_AGAIN]
        histories |= {name: describe_events(name, item, _FIRST_LABEL) for name in common}
    categories: list[str] = []
    if columns.items is not None:
        of_items = {name: text for name, text in features.items() if "side: item, kind: id" in text}
        ids = {column_of(name, text): name for name, text in of_items.items() if name != item}
        categories = find_categories(pl.read_parquet(out / "items.parquet"), ids)
    lines: dict[str, str] = {}
    for name, settings in histories.items():
        history = free_name(name, features)
        told = recurrence_features(history, item, categories, timed)
        lines |= {history: settings} | {free_name(n, features): one for n, one in told.items()}
    return lines


def _measure_recurrence(columns: Lists, log: pl.LazyFrame) -> dict[str, float]:
    """Measure the shares of candidates that the user clicked, or was shown, before."""
    item, label = columns.item, (_names(columns.labels) or _names(columns.chosen))[0]
    along = [label] if columns.labels else []
    clicked = pl.col(label).cast(pl.Float64) == 1 if along else pl.col(item).is_in(pl.col(label))
    shown = log.select(pl.col(columns.user, columns.time, label), pl.col(columns.candidates).alias(item))
    events = {name: clicked if name == "clicked" else pl.lit(True) for name in LAST}
    rows = shown.explode(item, *along)
    return measure_recurrence(rows, pl.col(columns.user), pl.col(item), pl.col(columns.time), events)


def _write_tables(
    columns: Lists, out: Path, numbers: WholeNumbers, report: Report
) -> dict[str, dict[str, str]]:
    """Write the tables of items and users that there are. Returns the features of each. Raises DataError."""
    log = pl.scan_parquet(out / "log.parquet")
    found: dict[str, dict[str, str]] = {
        "item": {columns.item: f"{{side: item, kind: id, min_count: {OFTEN}}}"}
    }
    if columns.items is not None:
        shown = log.select(pl.col(columns.candidates).explode().drop_nulls().unique())
        ids = shown.collect(engine="streaming").to_series()
        items = write_items(columns.items, columns.item, ids, out / "items.parquet")
        found["item"] = describe_items(items, columns.item, numbers)
    if columns.users is not None:
        ids = log.select(pl.col(columns.user).unique()).collect(engine="streaming").to_series()
        users = write_users(columns.users, columns.user, ids, out / "users.parquet", report)
        found["user"] = describe_users(users, columns.user, numbers)
    return found


def _listed(columns: Lists, facts: _LogFacts, out: Path) -> ListedLog:
    """The training days of what was written."""
    files = {"user": columns.users and out / "users.parquet", "item": columns.items and out / "items.parquet"}
    labels = _names(columns.labels)
    return ListedLog(
        training_rows(pl.scan_parquet(out / "log.parquet"), columns.time, facts.split),
        columns.user,
        columns.item,
        columns.candidates,
        (labels or _names(columns.chosen))[0],
        bool(labels),
        {side: pl.scan_parquet(path) for side, path in files.items() if path},
    )


_Faults = list[tuple[str, pl.Expr, str]]


def _list_faults(columns: Lists, labels: list[str]) -> _Faults:
    """What may be wrong in a row of lists."""
    items = pl.col(columns.candidates)
    length = items.list.len().fill_null(0)
    null = items.list.eval(pl.element().is_null()).list.any()
    faults = [(columns.candidates, null, "an item in every place")]
    for name in labels:
        unlike = pl.col(name).list.len().fill_null(0) != length
        faults.append((name, unlike, f"a list as long as '{columns.candidates}'"))
        other = pl.col(name).list.eval(~pl.element().cast(pl.Float64).is_in([0.0, 1.0])).list.any()
        faults.append((name, other, "0, 1, or nothing where it is unknown"))
    return faults


def _exposure_faults(columns: Lists, labels: list[str]) -> _Faults:
    """What may be wrong in a row of an exposure."""
    faults = [(columns.candidates, pl.col(columns.candidates).is_null(), "an item in every row")]
    other = {name: ~pl.col(name).cast(pl.Float64).is_in([0.0, 1.0]) for name in labels}
    return faults + [(name, bad, "0, 1, or nothing where it is unknown") for name, bad in other.items()]


def _config(columns: Lists, facts: _LogFacts, features: _Features) -> Iterator[str]:
    """The config, piece by piece."""
    labels, chosen = _names(columns.labels), _names(columns.chosen)
    order = features.order
    beside = [*labels, *features.along]
    along = f", along: [{', '.join(map(quote, beside))}]" if beside else ""
    members = ", ".join(f"is_{n}: {quote(column)}" for n, column in enumerate(chosen))
    yield "# A log of impressions, as `corank import lists` wrote it. Features were chosen by the types of columns.\n"
    yield "name: lists\n\ndata:\n"
    if not facts.times:
        yield "  # The log has no times. These are a minute apart, in the order of its rows: rates know all but the\n"
        yield "  # last 60 requests. A service has no such clock: it knows the rates of its bundle, or last refresh.\n"
    if not facts.users:
        yield "  # The log names no users: each request is its own.\n"
    yield f"  log: {{files: log.parquet, list: {quote(columns.candidates)}{along}"
    yield f", members: {{{members}}}" if members else ""
    yield f", index: {quote(order.name)}}}\n" if order.is_index else "}\n"
    yield "  items: items.parquet\n" if columns.items is not None else ""
    yield "  users: users.parquet\n" if columns.users is not None else ""
    yield f"  request: [{', '.join(map(quote, _names(columns.request) or ['impression']))}]\n"
    yield f"  user: {quote(columns.user)}\n  item: {quote(columns.item)}\n  time: {quote(columns.time)}\n"
    yield f"  position: {quote(order.name)}\n" if order.role == "effect" else ""
    yield "  labels:\n"
    named = [quote(name) for name in labels] + [f"is_{n}" for n in range(len(chosen))]
    titles = [_FIRST_LABEL, *(f"label_{n}" for n in range(1, len(named)))]
    for title, column in zip(titles, named, strict=True):
        yield f"    {title}: {{column: {column}}}\n"
    yield f"  split: {facts.split}\n\n"
    yield f"known_before: [{', '.join(map(quote, features.known))}]\n\n" if features.known else ""
    yield "features:\n"
    for name, settings in features.lines.items():
        yield f"  {quote(name)}: {settings}\n"
    for line in features.left_out:
        yield f"  # left out: {line}\n"
    yield "  # how many candidates a request has, and rates of clicks so far\n"
    yield f"  {free_name('candidates', features.lines)}: {{kind: candidates}}\n"
    known = {"item": columns.item} | ({"user": free_name(columns.user, {})} if facts.users else {})
    for what, by in known.items():
        clicks, shown = (free_name(f"{what}_{n}", features.lines) for n in ("clicks", "shown"))
        yield f"  {clicks}: {{kind: prior, by: [{quote(by)}], label: click, every: 1h, smoothing: auto}}\n"
        yield f"  {shown}: {{kind: prior, by: [{quote(by)}], every: 1h}}\n"
    # a tower does not read the request's other candidates, nor the user with the item
    kinds = ("kind: within", "kind: count", "kind: since", BUCKETS)
    matches = [name for name, settings in features.lines.items() if any(kind in settings for kind in kinds)]
    read = f", matches: [{', '.join(matches)}]" if matches else ""
    yield f"\nstages:\n  - {{name: prerank, model: towers, keep: 20{read}}}\n"
    yield "  - {name: rank, model: mlp, keep: 10}\n"
    yield "\nlosses:\n  - {kind: click, stage: rank}\n  - {kind: click, stage: prerank}\n"
    yield "  - {kind: distill, teacher: rank, student: prerank, on: [exposed]}\n"
    yield "\ntrain: {epochs: auto, requests: auto, average: 0.99}\n"
    yield "\nbaseline: true  # ends a training with boosted trees on the same rows\n"

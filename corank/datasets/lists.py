"""A log of one's own, with a list of candidates in a row an impression, as corank's tables and a ready config."""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import Field

from corank.core.errors import DataError
from corank.core.files import atomic_folder
from corank.core.reports import Report
from corank.datasets.importer import (
    IMPORTERS,
    ImportedSplit,
    Importer,
    read_schema,
    refuse_rows,
    split_by_days,
)
from corank.datasets.list_columns import (
    OFTEN,
    describe_along,
    describe_context,
    describe_items,
    describe_lists,
    drop_repeats,
    free_name,
    has_repeats,
    list_along,
    name_column,
)

_FIRST_LABEL = "click"


@dataclass(frozen=True)
class ListsSummary:
    """The result of an import of lists."""

    impressions: int
    candidates: int
    split: ImportedSplit
    features: tuple[str, ...]


@IMPORTERS.register("lists")
class Lists(Importer):
    """Import a log of your own in Parquet, a row an impression, whose candidates are a list."""

    source_help = "A Parquet file of impressions, or a folder of such files."
    candidates: str = Field(description="Column: the list of candidates.")
    user: str = Field(description="Column: the user.")
    time: str = Field(description="Column: when.")
    labels: str = Field("", description="Columns of lists of 0 and 1, one element a candidate; with commas.")
    chosen: str = Field(
        "", description="Columns of lists of the items that were clicked and the like; with commas."
    )
    along: str = Field(
        "",
        description="Columns of lists with an element a candidate, such as its price, as features; with commas. By "
        "default all that are always as long as the candidates and do not look as if logged after the click.",
    )
    request: str = Field(
        "", description="Columns that identify an impression, with commas; its row by default."
    )
    history: str = Field("", description="Column: a list of the items that the user clicked before.")
    items: Path | None = Field(None, description="A Parquet file with a row an item.")
    item: str = Field("item_id", description="Its column of ids.")

    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write log, items and config; see `import_lists`."""
        import_lists(source, out, self, report)


def import_lists(source: Path, out: Path, columns: Lists, report: Report = lambda line: None) -> ListsSummary:
    """Write `log.parquet`, `items.parquet` and `config.yaml` to `out`, whole or not at all.

    Features are chosen by the types of columns, and by what helps on such logs: rates of clicks by item and user, how
    many candidates a request has, what has an element a candidate, lists of the request. Columns that look as if they
    were logged after the click are no features, unless `along` names them. The last two days are for validation and
    test, or the last two tenths of the requests if the days are few. Batches and epochs follow the number of requests.

    Args:
        source: a Parquet file, or a folder of such files.
        out: a folder that is not there or empty.
        columns: which column is what.
        report: takes a line about each step.

    Raises:
        DataError: a file or a column is missing, or a row cannot be read.
    """
    paths = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not paths:
        raise DataError(f"{source}: no Parquet file in this folder")
    with atomic_folder(out) as unfinished:
        facts = _write_log(paths, columns, unfinished / "log.parquet", report)
        features = _describe_log(facts, columns, unfinished / "log.parquet", source)
        lines = features.lines
        if columns.items is not None:
            table = _write_items(columns, unfinished)
            lines |= describe_items(table, columns.item)
        else:
            lines[columns.item] = f"{{side: item, kind: id, min_count: {OFTEN}}}"
        if columns.history:
            source_of = f"of: {_yaml(columns.item)}, column: {_yaml(columns.history)}"
            lines["history"] = f"{{side: user, kind: ids, {source_of}, last: 50}}"
        text = "".join(_config(columns, facts, features))
        (unfinished / "config.yaml").write_text(text, encoding="utf-8")
        report(f"{facts.impressions:,} impressions, {facts.candidates:,} candidates; split {facts.split}")
        report(f"features: {', '.join(lines)}")
        for line in features.left_out:
            report(f"left out: {line}")
    return ListsSummary(facts.impressions, facts.candidates, facts.split, tuple(lines))


@dataclass(frozen=True)
class _LogFacts:
    types: pl.Schema
    impressions: int
    candidates: int
    split: ImportedSplit


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _used(columns: Lists) -> set[str]:
    """The columns that are no features."""
    named = [columns.candidates, columns.user, columns.time, columns.history]
    return {*named, *_names(columns.labels), *_names(columns.chosen), *_names(columns.request)}


def _check_roles(columns: Lists) -> None:
    """Raise DataError if a column has two roles; those that identify an impression may also be user and time."""
    roles = [("--candidates", columns.candidates), ("--history", columns.history)]
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
    if "impression" in types and not columns.request:
        raise DataError(
            f"{path}: column 'impression' has the name that rows are numbered by; name it as --request, or rename it"
        )


def _check_elements(path: Path, types: pl.Schema, columns: Lists) -> None:
    """Raise DataError for lists of what is no item or no label."""
    for name in _names(columns.labels):
        _require(path, types, name, "--labels", is_list=True)
        inner = types[name].inner  # type: ignore[attr-defined]
        if not (inner.is_numeric() or inner == pl.Boolean):
            raise DataError(f"{path}: column '{name}' (--labels) has lists of {inner}; expected 0 and 1")
    text = None
    items = [("--candidates", columns.candidates), *(("--chosen", name) for name in _names(columns.chosen))]
    for option, name in (*items, *([("--history", columns.history)] if columns.history else [])):
        _require(path, types, name, option, is_list=True)
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


def _require(path: Path, types: pl.Schema, name: str, what: str, is_list: bool = False) -> None:
    """Raise DataError if a column is missing, or is no list as it should be."""
    if name not in types:
        near = difflib.get_close_matches(name, list(types), n=3)
        hint = f"near ones: {', '.join(near)}" if near else f"it has {', '.join(types)}"
        raise DataError(f"{path}: no column '{name}' ({what}); {hint}")
    if is_list and not isinstance(types[name], pl.List | pl.Array):
        raise DataError(f"{path}: column '{name}' ({what}) is {types[name]}; expected lists")


def _write_log(paths: Sequence[Path], columns: Lists, out: Path, report: Report) -> _LogFacts:
    """Write the impressions in order, one file after the other."""
    labels, chosen, request = (_names(text) for text in (columns.labels, columns.chosen, columns.request))
    if not labels + chosen:
        raise DataError("import lists: no label; name a column of lists as --labels or --chosen")
    _check_roles(columns)
    frames, first = [], None
    for path in paths:
        frame = pl.scan_parquet(path)
        types = read_schema(path, frame)
        if first is None:
            first = types
        elif types != first:
            raise DataError(f"{path}: its columns are not those of {paths[0]}")
        _check_elements(path, types, columns)
        _check_names(path, types, columns)
        for name, option in (
            (columns.user, "--user"),
            (columns.time, "--time"),
            *((n, "--request") for n in request),
        ):
            _require(path, types, name, option)
        if not isinstance(types[columns.time], pl.Datetime | pl.Date):
            raise DataError(
                f"{path}: column '{columns.time}' (--time) is {types[columns.time]}; expected times"
            )
        _check_rows(path, frame, columns, labels, request)
        frames.append(frame)
    assert first is not None
    log = _keep_once(pl.concat(frames), columns, report)
    numbered = (
        log if request else log.with_row_index("impression").with_columns(pl.col("impression").cast(pl.Int64))
    )
    numbered.sink_parquet(out)
    read = pl.scan_parquet(out)
    day = pl.col(columns.time).cast(pl.Datetime("us")).dt.date()
    days = read.group_by(day.alias("day")).len().sort("day").collect(engine="streaming").rows()
    if not days:
        raise DataError(f"{paths[0]}: no rows; expected impressions")
    candidates = read.select(pl.col(columns.candidates).list.len().sum()).collect().item()
    return _LogFacts(first, sum(count for _, count in days), candidates or 0, split_by_days(days))


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


@dataclass(frozen=True)
class _Features:
    lines: dict[str, str]
    """Feature → its settings."""
    along: list[str]
    """Columns with an element a candidate that are features."""
    left_out: list[str]
    """Columns that are no features, and why."""


def _describe_log(facts: _LogFacts, columns: Lists, path: Path, source: Path) -> _Features:
    """Describe user, context and what has an element a candidate. Raises DataError for a column that is no such.

    The log at `path` is what was read of `source`, which errors name.
    """
    log, used = pl.scan_parquet(path), _used(columns)
    labels, named = _names(columns.labels), _names(columns.along)
    for name in named:
        _require(source, facts.types, name, "--along", is_list=True)
    chosen, others, unlike = list_along(log, columns.candidates, used)
    for name in named:
        if name in unlike:
            raise DataError(f"{source}: column '{name}' (--along): {unlike[name]}")
    first = (labels or _names(columns.chosen))[0]
    lines = {free_name(columns.user, {}): name_column(columns.user, "side: user, kind: id, min_count: 30")}
    lines |= describe_context(facts.types, used)
    left_out, along = [f"{name}: {why}" for name, why in unlike.items() if name not in others], []
    for column in describe_lists(log, columns.candidates, first, bool(labels), others):
        if column.late:
            left_out.append(f"{column.name}: {column.late}")
        else:
            lines[free_name(column.name, lines)] = name_column(column.name, column.settings)
    for column in describe_along(log, columns.candidates, first, bool(labels), named or chosen):
        if column.late and not named:
            left_out.append(f"{column.name}: {column.late}; if it is known before, name it as --along")
        else:
            along.append(column.name)
            feature = free_name(column.name, lines)
            lines[feature] = name_column(column.name, column.settings)
            if "kind: number" in column.settings:
                lines[free_name(f"{feature}_rank", lines)] = f"{{kind: within, of: {feature}}}"
    return _Features(lines, along, left_out)


def _check_rows(
    path: Path, frame: pl.LazyFrame, columns: Lists, labels: list[str], request: list[str]
) -> None:
    length = pl.col(columns.candidates).list.len().fill_null(0)
    keys = [columns.user, columns.time, *request]
    faults = [(name, pl.col(name).is_null(), "a value in every row") for name in keys]
    null = pl.col(columns.candidates).list.eval(pl.element().is_null()).list.any()
    faults.append((columns.candidates, null, "an item in every place"))
    for name in labels:
        unlike = pl.col(name).list.len().fill_null(0) != length
        faults.append((name, unlike, f"a list as long as '{columns.candidates}'"))
        other = pl.col(name).list.eval(~pl.element().cast(pl.Float64).is_in([0.0, 1.0])).list.any()
        faults.append((name, other, "0, 1, or nothing where it is unknown"))
    refuse_rows(path, frame, faults)


def _write_items(columns: Lists, out: Path) -> pl.DataFrame:
    """Write the table of items. Raises DataError for a candidate without a row."""
    path, item = columns.items, columns.item
    assert path is not None
    frame = pl.scan_parquet(path)
    types = read_schema(path, frame)
    _require(path, types, item, "--item")
    refuse_rows(
        path, frame, [(item, pl.col(item).is_null() | pl.col(item).is_duplicated(), "one row of an item")]
    )
    table = frame.collect()
    seen = (
        pl.scan_parquet(out / "log.parquet").select(pl.col(columns.candidates).explode().alias(item)).unique()
    )
    read = seen.drop_nulls().collect(engine="streaming")
    if read[item].dtype.is_integer() != table[item].dtype.is_integer():
        raise DataError(
            f"{path}: column '{item}' is {table[item].dtype}, candidates are {read[item].dtype}; write both alike"
        )
    key = pl.Int64 if table[item].dtype.is_integer() else pl.String
    missing = read.select(pl.col(item).cast(key)).join(table.select(pl.col(item).cast(key)), item, how="anti")
    if len(missing):
        raise DataError(
            f"{path}: no row for {len(missing):,} candidates, such as {missing.sort(item)[item][0]!r}"
        )
    table.write_parquet(out / "items.parquet")
    return table


def _yaml(name: str) -> str:
    """A name as YAML reads it back, whatever is in it."""
    return name if name.isidentifier() and name.lower() not in ("null", "true", "false") else json.dumps(name)


def _config(columns: Lists, facts: _LogFacts, features: _Features) -> Iterator[str]:
    """The config, piece by piece."""
    labels, chosen = _names(columns.labels), _names(columns.chosen)
    beside = [*labels, *features.along]
    along = f", along: [{', '.join(map(_yaml, beside))}]" if beside else ""
    members = ", ".join(f"is_{n}: {_yaml(column)}" for n, column in enumerate(chosen))
    yield "# A log of impressions, as `corank import lists` wrote it. Features were chosen by the types of columns.\n"
    yield "name: lists\n\ndata:\n"
    yield f"  log: {{files: log.parquet, list: {_yaml(columns.candidates)}{along}"
    yield f"{f', members: {{{members}}}' if members else ''}}}\n"
    yield "  items: items.parquet\n" if columns.items is not None else ""
    yield f"  request: [{', '.join(map(_yaml, _names(columns.request) or ['impression']))}]\n"
    yield f"  user: {_yaml(columns.user)}\n  item: {_yaml(columns.item)}\n  time: {_yaml(columns.time)}\n  labels:\n"
    named = [_yaml(name) for name in labels] + [f"is_{n}" for n in range(len(chosen))]
    titles = [_FIRST_LABEL, *(f"label_{n}" for n in range(1, len(named)))]
    for title, column in zip(titles, named, strict=True):
        yield f"    {title}: {{column: {column}}}\n"
    yield f"  split: {facts.split}\n\nfeatures:\n"
    for name, settings in features.lines.items():
        yield f"  {_yaml(name)}: {settings}\n"
    for line in features.left_out:
        yield f"  # left out: {line}\n"
    yield "  # how many candidates a request has, and rates of clicks so far\n  candidates: {kind: candidates}\n"
    for what, by in (("item", columns.item), ("user", columns.user)):
        yield f"  {what}_clicks: {{kind: prior, by: [{_yaml(by)}], label: click, every: 1h, smoothing: auto}}\n"
        yield f"  {what}_shown: {{kind: prior, by: [{_yaml(by)}], every: 1h}}\n"
    # a tower does not read the request's other candidates
    matches = [name for name, settings in features.lines.items() if "kind: within" in settings]
    read = f", matches: [{', '.join(matches)}]" if matches else ""
    yield f"\nstages:\n  - {{name: prerank, model: towers, keep: 20{read}}}\n"
    yield "  - {name: rank, model: mlp, keep: 10}\n"
    yield "\nlosses:\n  - {kind: click, stage: rank}\n  - {kind: click, stage: prerank}\n"
    yield "  - {kind: distill, teacher: rank, student: prerank, on: [exposed]}\n"
    yield "\ntrain: {epochs: auto, requests: auto, average: 0.99}\n"

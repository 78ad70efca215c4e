"""Reads the tables of a config into the profile of its log, packed or not.

Exact duplicates of a candidate, which packing drops, are counted. Rates of columns are of candidates: an item's value
counts as often as the item is a candidate. Of items and users the newest row counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from corank.batches.sampling import LabelCounts, MixedCounts, SplitCounts, merge_counts
from corank.data.column_sources import feature_columns, find_sources
from corank.data.event_tables import open_events
from corank.data.log_rows import scan_log
from corank.data.null_texts import find_among_numbers, is_text
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.sources import keep_usable, open_tables
from corank.data.point_in_time import newest_rows, settle_versions
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.features.log_schema import (
    FROM,
    ID,
    ITEM,
    LEVEL,
    USER,
    DataSettings,
    label_column,
    score_column,
)
from corank.features.schema import Schema
from corank.training.checks.outcome_columns import OutcomeColumns
from corank.training.checks.page_rules import find_hopeless
from corank.training.checks.profile import (
    ColumnProfile,
    Familiarity,
    Profile,
    RequestCounts,
    find_single_buckets,
)
from corank.training.checks.split_rows import SPLIT, SplitRows
from corank.training.config.config import Config, plan_training


def open_log(config: Config, base: Path) -> tuple[dict[str, Table], dict[str, Source]]:
    """Open the tables of a config, by name, and find the one that each feature is read from. Raises DataError."""
    data, schema = config.data, config.declared
    log, others = scan_log(data, base), open_tables(data, schema, base)
    events = open_events(data, base)
    sources = find_sources(schema, data, log, others.get("items"), others.get("users"), events)
    return {"log": log} | others, sources


def profile_training(config: Config, base: Path, packed: PackedDataset, continues: bool = False) -> Profile:
    """Profile what a training reads: the tables, as `corank check`, or packed data alone that continue others.

    Of these the whole log would be read for the days since.

    Args:
        config: as it is written.
        base: the folder that its relative paths begin in.
        packed: its packed data; packing has accepted the tables.
        continues: whether the training begins at the weights of an earlier run.

    Raises DataError.
    """
    if packed.manifest.continued is not None:
        return profile_packed(config, packed, continues)
    profile = profile_log(config, base)
    return replace(profile, continues=continues, single=find_single_buckets(packed))


def profile_packed(config: Config, packed: PackedDataset, continues: bool = False) -> Profile:
    """Profile packed data alone: the splits that training reads, and features with one bucket."""
    splits = count_packed(packed, [name for name in packed.data.split_names if name != "test"])
    planned = plan_training(config, splits["train"].requests)
    return Profile(planned, splits, continues, find_single_buckets(packed))


def count_packed(packed: PackedDataset, splits: Sequence[str]) -> dict[str, SplitCounts]:
    """Count splits of packed data; labels that were too young when they were packed are null."""
    counted = count_splits(SplitRows.of_packed(packed, {name: packed.splits[name] for name in splits}))
    return {name: counted[name] for name in splits}


def count_splits(rows: SplitRows) -> dict[str, SplitCounts]:
    """Count rows by split."""
    return _count(rows)[0]


def profile_log(config: Config, base: Path) -> Profile:
    """Profile the log of a config from its tables, which packing has accepted. Raises DataError."""
    tables, sources = open_log(config, base)
    log = tables["log"] = keep_usable(tables["log"], tables.get("items"), config.data)
    last = log.collect(log.frame.select(log.moment(config.data.time).max())).item()
    return profile_tables(config, tables, sources, int(last))


def profile_tables(
    config: Config, tables: Mapping[str, Table], sources: Mapping[str, Source], last: int
) -> Profile:
    """Profile a log that `LogSummary.read` accepts.

    Args:
        config: the config.
        tables: by name.
        sources: feature → the table that its column is read from.
        last: the time of the log's last row, ms UTC.
    """
    schema, label = config.declared, config.stages[-1].main
    rows = SplitRows.of(tables["log"], config.data, schema, sources, last)
    splits, requests, misplaced = _count(rows)
    columns = _profile_columns(rows, schema, sources, tables, label)
    return Profile(
        plan_training(config, splits["train"].requests),
        splits,
        single=[
            c.name for c in columns if c.values is not None and c.values <= 1 and _is_bucket(schema, c.name)
        ],
        tables=tables,
        misplaced=misplaced,
        requests=requests,
        columns=columns,
        outcomes=OutcomeColumns(config, tables["log"], rows, sources).find(),
        hopeless=_find_hopeless(config, rows, sources, tables),
    )


def _is_bucket(schema: Schema, name: str) -> bool:
    return name in schema.features and schema.features[name].kind == "bucket"


def _find_hopeless(
    config: Config, rows: SplitRows, sources: Mapping[str, Source], tables: Mapping[str, Table]
) -> list[int]:
    if config.page is None or not config.page.rules:
        return []
    schema, key = config.declared, config.data.item
    columns = [c for c in feature_columns(schema, dict(sources), "items") if c != key]
    items = _newest(tables["items"], key, columns).rename({ID: ITEM}) if "items" in tables else None
    return find_hopeless(config.page, rows, schema, items)


SIZE = "size"
"""The column of the number of a request's candidates."""


def _count(
    rows: SplitRows,
) -> tuple[dict[str, SplitCounts], dict[str, RequestCounts], dict[str, dict[str, int]]]:
    """Count a log in two streamed passes; memory grows with its requests, not its candidates.

    Returns its splits, the requests of each, and what is misplaced, see `Profile`.
    """
    data = rows.data
    sums = rows.label_sums(*LabelCounts._fields)
    sums += [(pl.col(label_column(n)) == 1).sum().alias(f"{n} ones") for n in data.labels]
    sums += [pl.col(score_column(n)).is_not_null().sum().alias(f"{n} scored") for n in data.scores]
    totals = rows.collect(rows.frame.group_by(SPLIT, LEVEL).agg(*sums)).sort(LEVEL)
    request, known = rows.request, rows.label_sums("positives", "negatives")
    levels = rows.collect(rows.frame.group_by(SPLIT, *request, LEVEL).agg(pl.len().alias(SIZE), *known))
    sizes = levels.group_by(SPLIT, LEVEL, SIZE).agg(pl.len()).sort(SIZE)
    whole = levels.group_by(SPLIT, *request).agg(pl.exclude(LEVEL).sum())
    splits, requests = dict[str, SplitCounts](), dict[str, RequestCounts]()
    for name in data.split_names:
        frames = [frame.filter(pl.col(SPLIT) == name) for frame in (totals, sizes, whole)]
        splits[name] = _count_split(data, *frames)
        positives = {label: _histogram(frames[-1], f"{label} positives") for label in data.labels}
        requests[name] = RequestCounts(_histogram(frames[-1], SIZE), positives)
    return splits, requests, _find_misplaced(data, totals)


def _count_split(
    data: DataSettings, totals: pl.DataFrame, sizes: pl.DataFrame, requests: pl.DataFrame
) -> SplitCounts:
    """Count a split from its rows by level, by level and number of candidates of a request, and by request."""
    levels, of_level = range(len(data.levels)), {row[LEVEL]: row for row in totals.rows(named=True)}
    shown = of_level.get(levels[-1], {})

    def count(row: Mapping[str, int], label: str) -> LabelCounts:
        return LabelCounts(*(row.get(f"{label} {field}", 0) for field in LabelCounts._fields))

    by_level = {name: [count(of_level.get(n, {}), name) for n in levels] for name in data.everywhere}
    return SplitCounts(
        len(requests),
        [dict(sizes.filter(pl.col(LEVEL) == level).select(SIZE, "len").rows()) for level in levels],
        {name: merge_counts(by_level.get(name, [count(shown, name)])) for name in data.labels},
        {name: _count_mixed(requests, name) for name in data.labels},
        {name: [of_level.get(n, {}).get(f"{name} scored", 0) for n in levels] for name in data.scores},
        by_level,
    )


def _find_misplaced(data: DataSettings, totals: pl.DataFrame) -> dict[str, dict[str, int]]:
    above = totals.filter(pl.col(LEVEL) < len(data.levels) - 1).drop(SPLIT)
    rows = above.group_by(LEVEL, maintain_order=True).sum().rows(named=True)
    elsewhere = [name for name in data.labels if name not in data.everywhere]
    ones = {name: {data.levels[row[LEVEL]]: row[f"{name} ones"] for row in rows} for name in elsewhere}
    found = {name: {level: count for level, count in of.items() if count} for name, of in ones.items()}
    return {name: of for name, of in found.items() if of}


def _histogram(requests: pl.DataFrame, column: str) -> dict[int, int]:
    return dict(requests.group_by(column).agg(pl.len()).sort(column).rows())


def _count_mixed(requests: pl.DataFrame, label: str) -> MixedCounts:
    """Count the requests that have a positive and a negative, and these."""
    kinds = [f"{label} positives", f"{label} negatives"]
    both = requests.filter(pl.all_horizontal(pl.col(kind) > 0 for kind in kinds))
    return MixedCounts(len(both), *(int(both[kind].sum()) for kind in kinds))


COUNT, POSITIVES, KNOWN, LACKING = "@count", "@positives", "@known", "@lacking"


def _profile_columns(
    rows: SplitRows,
    schema: Schema,
    sources: Mapping[str, Source],
    tables: Mapping[str, Table],
    label: str,
) -> list[ColumnProfile]:
    """Profile the ids of items and users, and every column that a feature reads.

    Args:
        rows: with the log's columns of features.
        schema: the features.
        sources: the table that each feature is read from.
        tables: by name.
        label: whose positives are counted.
    """
    positives = rows.counts_as(label, "positives").sum().cast(pl.Int64).alias(POSITIVES)
    counted = pl.len().cast(pl.Int64).alias(COUNT), positives

    def profile(values: pl.DataFrame, source: Source, name: str) -> ColumnProfile:
        """A feature; as an id if it distinguishes single values."""
        feature, column = schema.columns()[name], schema.column(name)
        return _profile_column(values, source, name, column, "id" in feature.uses, feature.is_missing(column))

    profiles: list[ColumnProfile] = []
    keys: tuple[tuple[Source, str, str], ...] = (
        ("items", ITEM, rows.data.item),
        ("users", USER, rows.data.user),
    )
    for source, key, column in keys:
        ids = rows.collect(rows.frame.group_by(SPLIT, key).agg(*counted))
        if source in tables:
            columns = [c for c in feature_columns(schema, dict(sources), source) if c != column]
            ids = ids.join(_newest(tables[source], column, columns), left_on=key, right_on=ID, how="left")
        profiles.append(
            _profile_column(ids, source, source.removesuffix("s"), key, True, pl.col(key).is_null())
        )
        named = [n for n, s in sources.items() if s == source and schema.column(n) != column]
        profiles += [profile(ids, source, n) for n in named]
    for name in (name for name, source in sources.items() if source == "log"):
        values = rows.collect(rows.frame.group_by(SPLIT, schema.column(name)).agg(*counted))
        profiles.append(profile(values, "log", name))
    return profiles


def _profile_column(
    counted: pl.DataFrame, source: Source, name: str, column: str, identifies: bool, missing: pl.Expr
) -> ColumnProfile:
    """Profile a column.

    Args:
        counted: rows of one key, by split: columns SPLIT, COUNT, POSITIVES, and the values.
        source: the table that it is read from.
        name: of the feature.
        column: of the frame.
        identifies: whether its values are ids, of which training knows some.
        missing: whether a value is missing.
    """
    rows, nested = counted.filter(pl.col(SPLIT).is_not_null()), counted.schema[column].is_nested()
    sums = pl.col(COUNT).sum(), pl.col(COUNT).filter(missing).sum().alias(LACKING)
    totals = {s: (count, lacking) for s, count, lacking in rows.group_by(SPLIT).agg(*sums).sort(SPLIT).rows()}
    training = rows.filter(pl.col(SPLIT) == "train")
    return ColumnProfile(
        name,
        source,
        _find_familiar(rows.drop_nulls(column), column) if identifies and not nested else {},
        {split: lacking / count for split, (count, lacking) in totals.items()},
        None if nested else training[column].drop_nulls().n_unique(),
        len(training) if source != "log" else totals.get("train", (0, 0))[0],
        _find_texts(training, column) if identifies and is_text(counted.schema[column]) else {},
    )


def _find_texts(training: pl.DataFrame, column: str) -> dict[str, int]:
    """The few texts of a column of numbers, and their candidates."""
    values = training.select(pl.col(column).cast(pl.String).alias("value"), COUNT)
    return find_among_numbers(values.group_by("value").agg(rows=pl.col(COUNT).sum()))


def _find_familiar(rows: pl.DataFrame, column: str) -> dict[str, Familiarity]:
    """Of the rows that have a value, those whose value a row of the split `train` has, too."""
    training = rows.filter(pl.col(SPLIT) == "train").select(column).unique()
    known = rows.with_columns(pl.col(column).is_in(training[column].implode()).alias(KNOWN))
    sums = known.group_by(SPLIT).agg(
        pl.col(COUNT, POSITIVES).sum(), pl.col(COUNT, POSITIVES).filter(KNOWN).sum().name.suffix(" known")
    )
    return {
        split: Familiarity(seen / count, seen_positives / positives if positives else None)
        for split, count, positives, seen, seen_positives in sums.sort(SPLIT).rows()
        if split != "train"
    }


def _newest(table: Table, key: str, columns: Sequence[str]) -> pl.DataFrame:
    """The newest row of each id: ID and columns."""
    chosen = table.collect(table.frame.select(*table.versions(key), *table.own(columns)))
    return table.look_up(newest_rows(settle_versions(chosen)).drop(FROM), ID, columns)

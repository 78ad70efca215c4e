"""A bundle brought forward by newer logs, nothing trained: priors, item records and vectors; the model stays the same.

A prior's snapshot moves to the last period that the log closes, and counts what happened since its own. Newer rows of
`items` take the place of older records, and add to them. All that is derived of items is derived anew, with it what
histories know of their items, and every item vector.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.bundle import Bundle, Manifest, next_seq, write
from corank.cross import Sides
from corank.encode import Encoders, assemble
from corank.errors import DataError
from corank.funnel import read_tables, snapshots
from corank.history import floored
from corank.labels import known
from corank.layout import Layout
from corank.operands import Operands, Wanted
from corank.packed import prior_folder
from corank.prior import Snapshots, counted_rows
from corank.records import Records
from corank.requests import columns, request_columns
from corank.survey import Source, check_labels, check_values, spell
from corank.tables import DataSettings, Table
from corank.vectors import write_vectors
from corank.versions import Versions
from corank.vocabulary import Keys

Index = NDArray[np.int64]
Report = Callable[[str], object]


@dataclass(frozen=True)
class Newer:
    """What a bundle is refreshed by."""

    log: str | list[str]
    items: str | list[str] | None = None
    users: str | list[str] | None = None
    base: Path = Path()
    """Relative paths begin here."""
    until: int | None = None
    """The log is complete until then, ms UTC; its last row unless given."""


def refresh(path: Path, newer: Newer, report: Report = lambda line: None) -> Bundle:
    """Write the refreshed content of a bundle in its place: the same `model_version`, a new `items_seq`.

    Raises BundleError, DataError; what was there before is untouched then.
    """
    bundle = Bundle.open(path)
    manifest, folder = bundle.manifest, bundle.folder
    encoders = Encoders.load(folder / "encoders", manifest.declared)
    log = Table.scan("log", newer.log, newer.base)
    records = Records.load(folder / "items", encoders, manifest.item_columns)
    if newer.items is not None:
        records = _renewed(records, encoders, manifest, Table.scan("items", newer.items, newer.base), report)
    priors = _forward(snapshots(folder, manifest), manifest, encoders, records, log, newer, report)
    records = records.renewed(encoders, priors)
    fresh = manifest.model_copy(
        update={
            "priors": dict(priors.cut or {}),
            "items_seq": next_seq(path, manifest.model_version),
        }
    )
    return write(path, fresh, lambda content: _fill(content, folder, manifest, encoders, records, priors))


def _fill(
    content: Path,
    before: Path,
    manifest: Manifest,
    encoders: Encoders,
    records: Records,
    priors: Snapshots,
) -> None:
    """All parts of the content: those of the model as they are, the others anew."""
    for part in manifest.parts:
        if not part.startswith(("items/", "priors/")):
            (content / part).parent.mkdir(parents=True, exist_ok=True)
            _same(before / part, content / part)
    for n, rates in enumerate(priors.rates.values()):
        rates.save(prior_folder(content, n))
    records.save(content / "items")
    layout = Layout(manifest.declared, encoders.sizes)
    towers = {stage.name: stage.tables for stage in manifest.stages if stage.model == "towers"}
    write_vectors(content, towers, layout, records.rows, read_tables(content, manifest, layout))


def _same(old: Path, new: Path) -> None:
    """The same file under another name, or a copy where the disk knows no such thing: parts never change."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def _renewed(
    records: Records, encoders: Encoders, manifest: Manifest, table: Table, report: Report
) -> Records:
    """The records with the newest rows of a table in the place of older ones, and its new items among them."""
    schema, key = manifest.declared, manifest.item
    named = [*map(schema.column, schema.columns("item")), *manifest.item_columns]
    read = [column for column in dict.fromkeys(named) if column != key]
    check_values(table, manifest.item_columns, [key])
    none = pl.Series(dtype=records.ids.values.dtype)
    versions, _ = Versions.of(table, key, read, none, only=False)
    frame = versions.frame.unique("@id", keep="last", maintain_order=True).rename({"@id": key})
    known_ids = int((records.ids.find(frame[key]) >= 0).sum())
    report(f"items: {known_ids:,} renewed, {len(frame) - known_ids:,} new")
    derived = {name: np.zeros(len(frame), dtype=np.float32) for name in schema.derived("item")}
    return records.merged(
        Records(
            Keys(frame[key]),
            assemble(schema.placed("item"), encoders.columns("item", frame) | derived, len(frame)),
            Operands.of(encoders, Wanted.of(schema, "item"), lambda n: frame[schema.column(n)], len(frame)),
            {name: frame[name].cast(pl.Float32).to_numpy() for name in manifest.item_columns},
        )
    )


def _forward(
    priors: Snapshots,
    manifest: Manifest,
    encoders: Encoders,
    records: Records,
    log: Table,
    newer: Newer,
    report: Report,
) -> Snapshots:
    """The snapshots as of the last period that the log closes."""
    features, data = manifest.declared.priors(), _needed(manifest)
    if not features:
        return priors
    check_labels(log, data)
    rows = _exposed(log, data, manifest, priors, newer)
    labels, sides = known(rows, data), _sides(rows, manifest, encoders, records, newer, report)
    first, last = (int(value) for value in log.collect(_ends(log, data)).row(0))
    rates, cuts = dict(priors.rates), dict(priors.cut or {})
    for name, feature in features.items():
        since, end = cuts[name], np.array([last if newer.until is None else newer.until])
        cut = int(floored(end, feature.every, data.timezone)[0])
        if cut <= since:
            report(f"{name}: still as of {spell(since)}; the log closes no later period")
            continue
        if first > since + feature.every // timedelta(milliseconds=1):
            report(f"{name}: counts nothing between {spell(since)} and {spell(first)}, where the log begins")
        counts = counted_rows(feature, rows, data, labels, sides)
        rates[name] = rates[name].extended(counts, since, cut)
        cuts[name] = cut
        new = int(counts["period"].is_between(since, cut, closed="left").sum())
        report(f"{name}: {spell(since)} → {spell(cut)}, {new:,} candidates counted")
    return Snapshots(rates, priors.timezone, cuts)


def _needed(manifest: Manifest) -> DataSettings:
    """Of the log what priors count: no scores, and those of the labels alone that they know or are given."""
    held, names = manifest.data.labels, set()
    for prior in manifest.declared.priors().values():
        label = prior.label
        while label is not None:
            names.add(label)
            label = held[label].given
    labels = {name: label for name, label in held.items() if name in names}
    return manifest.data.model_copy(update={"labels": labels, "scores": {}, "position": None, "columns": []})


def _ends(log: Table, data: DataSettings) -> pl.LazyFrame:
    time = log.moment(data.time)
    return log.frame.select(time.min().alias("first"), time.max().alias("last"))


def _exposed(
    log: Table, data: DataSettings, manifest: Manifest, priors: Snapshots, newer: Newer
) -> pl.DataFrame:
    """The exposed candidates that some prior has not counted yet, repeats dropped, in the order of the log."""
    schema = manifest.declared
    users = newer.users and Table.scan("users", newer.users, newer.base)
    found: dict[str, Source] = {}
    for name in Wanted.of(schema, "query", schema.priors().values()).names:
        column = schema.column(name)
        if column in log.types:
            found[name] = "log"
        elif not users or column not in users.types:
            raise DataError(
                f"features.{name}: a prior counts by it, but the log has no column '{column}'"
                f"{'; give the users, too' if users is None else ', nor have the users'}"
            )
    late = [
        prior.lag + (data.matures(prior.label) if prior.label else timedelta())
        for prior in schema.priors().values()
    ]
    since = min((priors.cut or {}).values()) - max(late) // timedelta(milliseconds=1)
    shown = pl.lit(True) if data.level is None else pl.col(data.level).cast(pl.String) == data.levels[-1]
    rows = log.collect(
        log.frame.filter(shown, log.moment(data.time) >= since).select(columns(log, data, schema, found))
    )
    if rows.select("@user", "@item", "@time").null_count().row(0) != (0, 0, 0):
        raise DataError("data.log: a user, an item or a time is null; every candidate needs one")
    once = [*request_columns(data).values(), "@item"]
    return rows.unique(once, keep="first", maintain_order=True).with_row_index("@row")


def _sides(
    rows: pl.DataFrame,
    manifest: Manifest,
    encoders: Encoders,
    records: Records,
    newer: Newer,
    report: Report,
) -> Sides:
    """The operands of the rows' users, contexts and items."""
    schema, data = manifest.declared, manifest.data
    wanted = Wanted.of(schema, "query", schema.priors().values())
    of_users = [name for name in wanted.names if schema.column(name) not in rows.columns]
    frame = rows
    if of_users and newer.users is not None:
        table = Table.scan("users", newer.users, newer.base)
        names = list(dict.fromkeys(map(schema.column, of_users)))
        users, _ = Versions.of(table, data.user, names, rows["@user"].unique(), only=True)
        held = users.frame[users.at(rows["@user"], rows["@time"].to_numpy())]
        frame = rows.hstack(held.select(names))
    query = Operands.of(encoders, wanted, lambda name: frame[schema.column(name)], len(rows))
    record = records.ids.find(rows["@item"])
    strange = np.flatnonzero(record < 0)
    if len(strange):
        count = rows["@item"].gather(strange).n_unique()
        report(
            f"log: {count:,} items have no record; they are counted by their id alone (give the items, too)"
        )
    item = _item_operands(records, encoders, manifest, record, rows["@item"])
    return Sides.pairs(schema, query, item, np.arange(len(rows)), None)


def _item_operands(
    records: Records, encoders: Encoders, manifest: Manifest, record: Index, ids: pl.Series
) -> Operands:
    """Of the rows' items; of one without a record its id is known, and all else missing."""
    schema, strange = manifest.declared, np.flatnonzero(record < 0)
    alone, nothing = ids.gather(strange), pl.Series([None] * len(strange), dtype=pl.Null)

    def column(name: str) -> pl.Series:
        return alone if schema.column(name) == manifest.item else nothing

    bare = Operands.of(encoders, Wanted.of(schema, "item"), column, len(strange))
    if len(strange) == len(record):
        return bare
    held = records.operands.take(np.maximum(record, 0))
    return held.replaced(strange, bare) if len(strange) else held

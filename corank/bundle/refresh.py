"""Refreshing a bundle from newer tables without training: priors, item records and parts. The model stays the same.

The snapshot of a prior moves to the last period that the log closes, and counts what happened since the earlier one.
Newer rows of `items` replace older records, or are added. Derived features of items and all item parts are computed
again.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from corank.bundle.bundle import Bundle, next_items_seq, write_content
from corank.bundle.content import ItemGraphs, read_snapshots, read_tables, save_parts, store_parts
from corank.bundle.incremental_priors import (
    NewerReader,
    RefreshSources,
    UncountedRows,
    logged_priors,
    open_newer_events,
    read_until,
)
from corank.bundle.item_records import ItemRecords
from corank.bundle.layout_file import FILE, write_layout
from corank.bundle.manifest import BundleManifest, load_manifest
from corank.bundle.signatures import SigningKeys
from corank.core.artifact import ArtifactWriter
from corank.core.files import link_file
from corank.core.reports import Report
from corank.core.time import MILLISECOND, floor_times, format_time
from corank.data.packed.dataset import prior_folder
from corank.data.packing.event_counts import event_priors
from corank.data.point_in_time import newest_rows
from corank.data.tables import Table
from corank.data.validate import check_rows, value_checks
from corank.data.vector_files import with_vector_files
from corank.data.versioned_tables import read_versions
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.features.log_schema import ID, DataSettings
from corank.features.priors import CountedFeature, PriorSnapshots


def refresh_bundle(
    path: Path,
    newer: RefreshSources,
    report: Report = lambda line: None,
    sign: SigningKeys | None = None,
) -> Bundle:
    """Replace the content of a bundle by a refreshed one, of the same `model_version` and a new `items_seq`.

    Args:
        path: the bundle.
        newer: the tables.
        report: receives a line about each step.
        sign: keys that sign the refreshed bundle.

    Raises:
        BusyError: another process writes the bundle.
        BundleError: the bundle is damaged or cannot be written; it is left as it was.
        DataError: the tables cannot be read.
    """
    load_manifest(path)  # a folder that is no bundle is not locked
    with ArtifactWriter.lock(path, BundleManifest, "refresh") as writer:
        return _refresh(writer, newer, report, sign)


def _refresh(
    writer: ArtifactWriter[BundleManifest], newer: RefreshSources, report: Report, sign: SigningKeys | None
) -> Bundle:
    bundle = Bundle.open(writer.path)
    manifest, folder = bundle.manifest, bundle.folder
    if manifest.signatures and sign is None:
        report("the bundle was signed, the refreshed one is not; give --sign KEY to sign it")
    encoders = Encoders.load(folder / "encoders", manifest.declared)
    records = ItemRecords.load(folder / "items", encoders, manifest.item_columns)
    priors = read_snapshots(folder, manifest)
    events = open_newer_events(newer, manifest)
    if newer.items is not None:
        table = Table.scan("items", newer.items, newer.base, manifest.data.nulls)
        table = with_vector_files(table, manifest.item, manifest.declared, newer.base, only_absent=True)
        records = _merge_items(records, encoders, priors, manifest, table, report)
    reader, until = NewerReader(newer, manifest, encoders, records, report), None
    if logged := logged_priors(manifest.declared):
        log = reader.read_log()
        priors, until = _advance(priors, log, logged, manifest.data, report), log.until
    ages = {n: every for n, every in manifest.declared.snapshots().items() if n not in priors.rates}
    if until is None and (events or ages):
        until = read_until(newer, manifest.data)
    if until is not None:
        for name, table in events.items():
            counting = event_priors(manifest.declared, name)
            priors = _advance(priors, reader.read_events(name, table, until), counting, manifest.data, report)
        priors = _renew(priors, ages, until, report)
    records = records.refresh_derived(encoders, priors)
    fresh = manifest.model_copy(
        update={
            "priors": dict(priors.cut or {}),
            "items_seq": next_items_seq(writer.path, manifest.model_version),
            "items_as_of": newer.items_as_of or manifest.items_as_of,
        }
    )
    return write_content(
        writer, fresh, lambda content: _fill(content, folder, manifest, encoders, records, priors), sign
    )


def _fill(
    content: Path,
    before: Path,
    manifest: BundleManifest,
    encoders: Encoders,
    records: ItemRecords,
    priors: PriorSnapshots,
) -> None:
    """Write all parts of the content: copy those of the model, renew the others."""
    for part in manifest.files:
        if not part.startswith((FILE, "items/", "priors/")):
            link_file(before / part, content / part)
    for n, rates in enumerate(priors.rates.values()):
        rates.save(prior_folder(content, n))
    records.save(content / "items")
    layout = Layout(manifest.declared, encoders.sizes)
    write_layout(content, manifest, layout, priors)
    tables = read_tables(content, manifest, layout)
    matrices = ItemGraphs(content, manifest.stages, layout, tables).compute_all(records.rows)
    save_parts(content, store_parts(matrices, manifest.stages))


def _merge_items(
    records: ItemRecords,
    encoders: Encoders,
    priors: PriorSnapshots,
    manifest: BundleManifest,
    table: Table,
    report: Report,
) -> ItemRecords:
    """Merge the newest rows of a table of items with the records. Raises DataError."""
    key, columns = manifest.item, list(manifest.request_columns.item)
    check_rows(table, value_checks(table, manifest.item_columns, [key]))
    none = pl.Series(dtype=records.ids.values.dtype)
    versions, _ = read_versions(table, key, columns, none, only=False)
    frame = newest_rows(versions.frame).rename({ID: key})
    known_ids = int((records.ids.find(frame[key]) >= 0).sum())
    report(f"items: {known_ids:,} replaced, {len(frame) - known_ids:,} new")
    return records.merge(ItemRecords.encode(frame, encoders, priors, key, manifest.item_columns))


def _renew(
    priors: PriorSnapshots, grids: Mapping[str, timedelta], until: int, report: Report
) -> PriorSnapshots:
    """Bring what depends on the time alone, such as ages, forward to the last step before a time."""
    cuts = dict(priors.cut or {})
    for name, every in grids.items():
        since, cut = cuts[name], int(floor_times(np.array([until]), every, priors.timezone)[0])
        if cut > since:
            report(f"{name}: {format_time(since)} → {format_time(cut)}")
            cuts[name] = cut
    return replace(priors, cut=cuts)


def _advance(
    priors: PriorSnapshots,
    newer: UncountedRows,
    features: Mapping[str, CountedFeature],
    data: DataSettings,
    report: Report,
) -> PriorSnapshots:
    """Bring the snapshots of some priors forward to the last period that newer rows close."""
    rates, cuts = dict(priors.rates), dict(priors.cut or {})
    for name, feature in features.items():
        since = cuts[name]
        cut = int(floor_times(np.array([newer.until]), feature.every, data.timezone)[0])
        if cut <= since:
            report(f"{name}: still as of {format_time(since)}; the log closes no later period")
            continue
        late, period = feature.known_after(data) // MILLISECOND, feature.every // MILLISECOND
        if newer.first >= since - late + (min(late, period) or period):
            gap = f"between {format_time(since - late)} and {format_time(newer.first)}"
            report(f"{name}: counts nothing {gap}, where the {newer.table} begins")
        counts = newer.count(feature)
        rates[name] = rates[name].extend(counts, since, cut, feature.memory)
        cuts[name] = cut
        new = int(counts["period"].is_between(since, cut, closed="left").sum())
        report(f"{name}: {format_time(since)} → {format_time(cut)}, {new:,} {newer.unit} counted")
    return PriorSnapshots(rates, priors.timezone, cuts)

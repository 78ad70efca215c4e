"""Tables → packed data, in two passes: encoders, items and users first; then the log, partition by partition.

What is derived from features (crosses, priors) follows, when histories are cut and every prior is counted.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.errors import DataError
from corank.core.files import (
    atomic_folder,
    read_array,
    read_frame,
    write_array,
    write_arrays,
    write_bytes,
    write_frame,
    write_shared,
    write_views,
)
from corank.core.ragged import Ragged
from corank.core.time import format_time, to_ms
from corank.core.types import Longs, Report
from corank.data.as_of import VersionedRows
from corank.data.dataset import PackedDataset
from corank.data.derived_columns import derive
from corank.data.fit_encoders import fit
from corank.data.grouping import GroupedRequests, partition
from corank.data.log_rows import constant_columns, key_columns, request_columns
from corank.data.pack_manifest import FORMAT, MANIFEST, PackManifest, ShardCount, fingerprint
from corank.data.shards import ShardWriter, encoded, raw
from corank.data.sources import BATCH, Inputs
from corank.data.tables import Table, changed_at
from corank.data.validate import Survey, feature_columns, sources, value_columns
from corank.features.encoders import Encoders, assemble
from corank.features.history import Events
from corank.features.log_schema import DataSettings
from corank.features.operands import OperandNames, Operands
from corank.features.row_columns import FROM, ID
from corank.features.schema import Schema

PARTITION = 2**20
"""Rows of a partition, about; as many are sorted in memory."""
PARTITIONS = 256
"""At most; their files are open together."""
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def pack(
    data: DataSettings, schema: Schema, base: Path, out: Path, report: Report = lambda line: None
) -> PackedDataset:
    """Pack the tables of `data`, whose paths are relative to `base`, into the folder `out`.

    `out` is replaced at the end, or not at all. Time columns are datetimes (without a zone: UTC), dates, or
    integers in ms. `valid_from`, an optional column of items and users, is the time from which a row holds.
    Memory is bounded by the tables of items and users and PARTITION, not by the log.
    Raises DataError for input that cannot be packed, ConfigError for settings that contradict it.
    """
    mark = fingerprint(data, schema, base)
    log = Table.scan("log", data.log, base)
    items, users, truth = (
        Table.scan(name, source, base) if source else None
        for name, source in (("items", data.items), ("users", data.users), ("truth", data.truth))
    )
    found = sources(schema, data, log, items, users)
    survey = Survey.of(log, data, feature_columns(schema, found, "log"))
    values = value_columns(data, log, items)
    report(f"log: {survey.rows:,} candidates, {format_time(survey.first)} to {format_time(survey.last)}")
    inputs = Inputs(data, schema, found, log, items, users, truth, survey, values)
    _refuse_foreign(out)
    with _disk_errors(out, inputs), atomic_folder(out, replace=True) as folder:
        spill = folder / "spill"
        spill.mkdir()
        writer, absent = _first_pass(inputs, folder, spill, report)
        splits, duplicates = _second_pass(inputs, writer, report)
        _write_events(inputs, writer, splits)
        dropped = {"duplicates": duplicates, "users_without_row": absent}
        manifest = _describe(folder, base, mark, inputs, splits, dropped)
        encoders = writer.encoders
        if schema.derived():
            encoders = derive(PackedDataset.assembled(folder, manifest, encoders), spill)
            for name in schema.derived():
                size = encoders.sizes.get(name)
                report(f"{name}: {f'{size:,} embedding rows' if size else 'a number'}")
        encoders.save(folder / "encoders")
        shutil.rmtree(spill)
        _write_manifest(folder, manifest)
    return PackedDataset.open(out, expect=mark)


def _first_pass(inputs: Inputs, folder: Path, spill: Path, report: Report) -> tuple[ShardWriter, int]:
    """Fit encoders, encode items and users; the number of users without a row in `users`."""
    data, schema, found, log = inputs.data, inputs.schema, inputs.found, inputs.log
    items, users, absent = inputs.item_versions(), *inputs.user_versions()
    if absent:
        report(
            f"users: {absent:,} of {len(users.ids):,} users of the log have no row; their features are missing"
        )
    encoders = fit(schema, data, found, {"log": log, "items": inputs.items, "users": inputs.users})
    for name, size in encoders.sizes.items():
        report(f"{name}: {size:,} embedding rows")
    with_snapshots, row = items.add_snapshots(inputs.snapshots())
    operands = _write_items(inputs, folder / "items", encoders, items, with_snapshots, row)
    write_frame(folder / "users.arrow", users.ids.values.alias("user").to_frame())
    as_of = to_ms(data.instant(data.as_of)) if data.as_of else inputs.survey.last
    return ShardWriter(
        data, schema, found, encoders, with_snapshots, users, operands, inputs.values, as_of, folder, spill
    ), absent


def _write_items(
    inputs: Inputs,
    folder: Path,
    encoders: Encoders,
    items: VersionedRows,
    with_snapshots: VersionedRows,
    row: Longs,
) -> Operands:
    """Encode every version of an item, once a snapshot; the operands of the rows written."""
    data, schema = inputs.data, inputs.schema
    names = [name for name, source in inputs.found.items() if source == "items"]
    placed, derived = schema.placed("item"), schema.derived("item")
    found = encoded(encoders, names, items, data.item)
    rows = assemble(placed.select(n for n in placed if n not in derived), found, len(items.frame)).take(row)
    write_arrays(folder, {"ids": rows.ids, "numbers": rows.numbers})
    for n, values in enumerate(rows.lists):
        write_shared(folder, n, values)
    write_frame(folder / "keys.arrow", with_snapshots.frame.select(item=ID, valid_from=FROM))
    columns = [name for name, source in inputs.values.items() if source == "items"]
    for name in columns:
        write_array(folder / f"column.{name}.npy", items.frame[name].cast(pl.Float32).to_numpy()[row])
    wanted = OperandNames.of(schema, "item")
    operands = Operands.of(
        encoders, wanted, lambda name: raw(schema, name, items, data.item), len(items.frame)
    ).take(row)
    operands.save(folder / "operands")
    return operands


def _second_pass(
    inputs: Inputs, writer: ShardWriter, report: Report
) -> tuple[dict[str, list[ShardCount]], int]:
    """Spread the log over partitions, and write the shards of each; shards by split, and duplicates dropped."""
    data, rows = inputs.data, inputs.survey.rows
    count = min(max(-(-rows // PARTITION), 1), PARTITIONS)
    request = request_columns(data).values()
    parts = partition(inputs.log.batches(inputs.columns(), rows, BATCH), request, count, writer.spill / "log")
    truth = _gather_truth(inputs, writer.spill, count)
    fixed = constant_columns(data, inputs.schema, inputs.found)
    splits: dict[str, list[ShardCount]] = {split: [] for split in data.splits()}
    dropped = 0
    for n, part in enumerate(parts):
        frame = read_frame(part)
        if len(frame):
            requests = GroupedRequests.group(frame, data, fixed)
            dropped += requests.duplicates
            shards = writer.write(f"{n:05d}", requests, read_frame(truth[n]) if truth else None)
            for split, shard in shards.items():
                splits[split].append(shard)
        part.unlink()
        report(f"packed: partition {n + 1} of {count}")
    if dropped:
        report(f"log: {dropped:,} exact duplicates of a candidate dropped")
    return splits, dropped


def _gather_truth(inputs: Inputs, spill: Path, count: int) -> list[Path]:
    truth, data = inputs.truth, inputs.data
    if truth is None:
        return []
    labels = [name for name in data.labels if name in truth.types]
    if not labels:
        truth.require(list(data.labels)[:1])
    chosen = [*key_columns(truth, data), *(pl.col(name).cast(pl.Float32) for name in labels)]
    rows = truth.collect(truth.frame.select(pl.len())).item()
    request = request_columns(data).values()
    return partition(truth.batches(chosen, rows, BATCH), request, count, spill / "truth")


def _write_events(inputs: Inputs, writer: ShardWriter, splits: dict[str, list[ShardCount]]) -> None:
    """Sort the events of all partitions, and cut each request's histories out of them."""
    folder, schema, data = writer.folder, inputs.schema, inputs.data
    (folder / "events").mkdir()
    histories = schema.histories()
    for name in {history.events for history in histories.values()}:
        pieces = sorted(writer.spill.glob(f"{name}.*.arrow"))
        Events.write(folder / "events", name, pieces, len(writer.users.ids))
    events = {h.events: Events.open(folder / "events", h.events) for h in histories.values()}
    for shard in (folder / split / count.name for split, counts in splits.items() for count in counts):
        user, time = read_array(shard / "user.npy"), read_array(shard / "time.npy")
        for n, name in enumerate(schema.placed("query").lists):
            if name in histories:
                h, of = histories[name], events[histories[name].events]
                start, length = of.slices(user, time, h.known_after(data), h.every, data.timezone, h.last)
                write_views(shard / "query", n, Ragged(start, length, of.items))


def _describe(
    folder: Path,
    base: Path,
    mark: str,
    inputs: Inputs,
    splits: dict[str, list[ShardCount]],
    dropped: dict[str, int],
) -> PackManifest:
    data = inputs.data
    levels = np.zeros(len(data.levels), dtype=np.int64)
    for path in folder.glob("*/*/level.npy"):
        levels += np.bincount(np.load(path), minlength=len(levels))
    return PackManifest(
        format=FORMAT,
        fingerprint=mark,
        data=data,
        features=inputs.schema.features,
        splits=splits,
        levels=dict(zip(data.levels, levels.tolist(), strict=True)),
        dropped=dropped,
        last=inputs.survey.last,
        sources=inputs.found,
        item_columns=[name for name, source in inputs.values.items() if source == "items"],
        items_at=changed_at(data.items, base),
        files={},
    )


def _write_manifest(folder: Path, manifest: PackManifest) -> None:
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    whole = manifest.model_copy(update={"files": files})
    write_bytes(folder / MANIFEST, whole.model_dump_json(indent=1).encode())


def _refuse_foreign(out: Path) -> None:
    """Raise DataError if a folder holds anything but packed data."""
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists, but is no packed data; move it away or pack to another folder")


@contextmanager
def _disk_errors(out: Path, inputs: Inputs) -> Iterator[None]:
    """Raise DataError where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DataError(
            f"{out.parent}: {os.strerror(error.errno)} while packing, which takes about "
            f"{inputs.needed():,} bytes there; free some or pack to another folder"
        ) from None

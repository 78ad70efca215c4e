"""Tables → packed data, in two passes: encoders, items and users first; then the log, partition by partition.

What is derived from features (crosses, priors) follows, when histories are cut and every prior is counted.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from corank.core.arrays import read_array
from corank.core.artifact import ArtifactWriter
from corank.core.errors import DiskError
from corank.core.reports import Report
from corank.core.time import format_time
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.inputs import find_columns, find_versions, fingerprint, hash_versions, pin_tables
from corank.data.packed.manifest import PackManifest, ShardCount, remove_old_sets
from corank.data.packing.derive import count_items, derive_columns
from corank.data.packing.earlier_pack import FROM_BEGIN, EarlierPack, PackStart, report_grown
from corank.data.packing.event_counts import count_events, counted_tables
from corank.data.packing.first_pass import PackedTables, write_first_pass
from corank.data.packing.histories import write_histories
from corank.data.packing.input_files import survey_files
from corank.data.packing.prior_counts import count_priors
from corank.data.packing.shards import pack_partitions
from corank.data.packing.sources import PackSources
from corank.data.packing.state import KnownRows
from corank.data.packing.workspace import PackWorkspace, open_workspace
from corank.engine.base import Engine, InLineEngine, describe_memory
from corank.features.encoders import Encoders
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

PARTITION = 2**20
"""Rows of a partition, about: so many are sorted in memory at once."""
PARTITIONS = 256
"""Partitions, at most; of more rows than fill them, a partition has more than PARTITION."""
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def count_partitions(rows: int) -> int:
    """Return over how many partitions the rows of a log are spread."""
    return min(max(-(-rows // PARTITION), 1), PARTITIONS)


def pack_log(
    data: DataSettings,
    schema: Schema,
    base: Path,
    out: Path,
    report: Report = lambda line: None,
    engine: Engine | None = None,
    earlier: EarlierPack | None = None,
) -> PackedDataset:
    """Pack the tables of a config into a folder, which is replaced at the end or not at all.

    Time columns are datetimes (without a zone: UTC), dates, or integers in ms. `valid_from`, an optional column of
    items and users, is the time from which a row holds. Memory is bounded by the tables of items and users and by
    PARTITION, not by the log.

    Args:
        data: the settings of the tables.
        schema: the features.
        base: the folder that the tables' paths are relative to.
        out: the folder to write.
        report: receives a line about each step.
        engine: runs the tasks; in line by default. The files are the same for any engine and number of workers.
        earlier: the packing to continue from: only rows that are later are packed.

    Raises:
        EngineError: the engine cannot run a task.
        BusyError: another process packs into the folder.
        DataError: the tables cannot be packed, or the disk is full.
        ConfigError: the settings contradict the tables.
    """
    engine = engine or InLineEngine()
    with ArtifactWriter.lock(out, PackManifest, "pack") as writer:
        start = FROM_BEGIN if earlier is None else PackStart.after(earlier, data, schema)
        continued = None if earlier is None else earlier.origin
        pinned, snapshots = pin_tables(data, base)
        for key, tables in snapshots.items():
            report(f"{key}: {', '.join(tables)}")
        versions = find_versions(pinned, schema.features, base)
        columns = find_columns(pinned, schema.features, base)
        mark = fingerprint(data, schema, base, continued, versions)
        with open_workspace(out, mark, (PARTITION, PARTITIONS), engine, report) as workspace:
            files, read = survey_files(workspace, pinned, base, start)
            start = replace(start, files=read if earlier else {})
            inputs = PackSources.open(pinned, schema, base, engine, report, start)
            rows, span = inputs.summary.rows, (inputs.summary.first, inputs.summary.last)
            report(f"log: {rows:,} candidates, {' to '.join(map(format_time, span))}")
            with _disk_errors(out, inputs):
                manifest = _write_all(inputs, workspace, mark, data)
                known = {"input_files": files, "inputs": hash_versions(versions), "columns": columns}
                known |= {"snapshots": snapshots}
                workspace.publish(writer, manifest.model_copy(update=known))
                remove_old_sets(out)
        report(describe_memory(engine))
        return PackedDataset.open(out, expect=mark)


def _write_all(inputs: PackSources, workspace: PackWorkspace, mark: str, data: DataSettings) -> PackManifest:
    """Write all files of the packed data but the manifest, which is returned, into the working folder."""
    schema, folder = inputs.schema, workspace.packed
    absent = workspace.run_here("first", lambda: write_first_pass(inputs, workspace))
    tables, count = PackedTables(schema, folder, workspace.spill), count_partitions(inputs.summary.rows)
    splits, duplicates = pack_partitions(workspace, inputs, tables, count)
    shards = [(split, shard.name) for split, written in splits.items() for shard in written]
    write_histories(workspace, inputs, tables, count, shards)
    dropped = {"duplicates": duplicates, "users_without_row": absent}
    manifest = _describe(folder, mark, inputs, data, splits, dropped)
    count_items(workspace, splits, data)
    _count_rows(folder, inputs, shards)
    if schema.derived():
        _derive(workspace, manifest, inputs, tables, count)
    else:
        tables.encoders.save(folder / "encoders")
    if (earlier := inputs.start.earlier) is not None:
        encoders = Encoders.load(folder / "encoders", schema)
        grown = report_grown(workspace.report, earlier, encoders)
        manifest = manifest.model_copy(update={"grown": grown})
    return manifest


def _count_rows(folder: Path, inputs: PackSources, shards: Iterable[tuple[str, str]]) -> None:
    """Write the numbers of candidates by time of these shards and of the packing before."""
    folders = [folder / split / name for split, name in shards]
    rows = (
        (read_array(path / "time.npy"), np.diff(read_array(path / "request_start.npy"))) for path in folders
    )
    known = KnownRows.count(rows, inputs.data.split_bounds().values(), inputs.summary.last)
    if (earlier := inputs.start.earlier) is not None:
        known = known.after(KnownRows.read(earlier.folder))
    known.write(folder)


def _derive(
    workspace: PackWorkspace,
    manifest: PackManifest,
    inputs: PackSources,
    tables: PackedTables,
    partitions: int,
) -> None:
    """Count the priors of so many partitions, and add the derived features."""
    schema = inputs.schema
    ranges = {name: count_events(workspace, inputs, tables, name) for name in counted_tables(schema)}
    count_priors(workspace, partitions, ranges, inputs)
    sizes = derive_columns(workspace, manifest, inputs, tables).sizes
    for name in schema.derived():
        size = sizes.get(name)
        workspace.report(f"{name}: {f'{size:,} embedding rows' if size else 'a number'}")


def _describe(
    folder: Path,
    mark: str,
    inputs: PackSources,
    data: DataSettings,
    splits: dict[str, list[ShardCount]],
    dropped: dict[str, int],
) -> PackManifest:
    """Describe what was packed, but for the files."""
    levels = np.zeros(len(data.levels), dtype=np.int64)
    for path in folder.glob("*/*/level.npy"):
        levels += np.bincount(np.load(path), minlength=len(levels))
    return PackManifest(
        fingerprint=mark,
        data=data,
        features=inputs.schema.features,
        splits=splits,
        levels=dict(zip(data.levels, levels.tolist(), strict=True)),
        dropped=dropped,
        last=inputs.summary.last,
        sources=inputs.sources,
        item_columns=inputs.item_columns,
        inputs={},
        columns={},
        through=inputs.until,
        continued=None if inputs.start.earlier is None else inputs.start.earlier.origin,
    )


@contextmanager
def _disk_errors(out: Path, inputs: PackSources) -> Iterator[None]:
    """Raise DataError if the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskError(
            f"{out.parent}: {os.strerror(error.errno)} while packing, which takes about "
            f"{inputs.estimate_bytes():,} bytes there; free some or pack to another folder"
        ) from None

"""Tables of a lakehouse, Delta Lake and Apache Iceberg: the data files of one snapshot, and the rows of some of them.

A config names the newest snapshot of a table, or one:

    delta://PATH  delta+s3://BUCKET/KEY  …?version=3
    iceberg://PATH  iceberg+s3://BUCKET/KEY  iceberg://CATALOG.NAMESPACE.TABLE  …?snapshot=4539101404912027376

`gs` and `az` stand for `s3` as well. A path is of a table's folder, or of one of Iceberg's metadata files; to tell it
from a name in a catalog, Iceberg's has a `/`. Here a data file has the name SNAPSHOT#FILE, so that each worker reads
the same rows, in the same order, whatever is committed meanwhile. `scan_delta` and `scan_iceberg` of polars read it,
with what the snapshot says of its columns, partition and deleted rows. Addresses within a table and credentials are
its owner's: the libraries follow them.
"""

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import polars as pl

from corank.core.errors import CorankError, DataError
from corank.core.formatting import shorten
from corank.core.lazy import require
from corank.core.objects import ObjectUrl
from corank.core.panics import panics_as_errors
from corank.data.table_formats import TABLE_FORMATS, FileVersion

_PINS = {"delta": "version", "iceberg": "snapshot"}
_URI = re.compile(r"(delta|iceberg)(?:\+(\w+))?://([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_ACCESS = ("s3.", "gcs.", "adls.")


@dataclass(frozen=True)
class LakeTable:
    """The address of a table."""

    kind: str
    location: str
    """An absolute path, the URL of an object, or a name in a catalog."""
    snapshot: int | None
    """The newest if None."""

    @classmethod
    def parse(cls, text: str, base: Path) -> Self:
        """Read the address of a table; a path is relative to a folder. Raises DataError, StorageError."""
        match = _URI.fullmatch(text)
        assert match is not None
        kind, scheme, location, query, _ = match.groups()
        pin = None if query is None else re.fullmatch(f"{_PINS[kind]}=([0-9]{{1,19}})", query)
        if query is not None and "also=" in query:
            raise DataError(
                f"{shorten(text, 300)}: also= is gone: files are read wherever a table has them; remove it"
            )
        if not location or (query is not None and pin is None):
            raise DataError(
                f"{shorten(text, 300)}: expected {kind}://PATH or {kind}+s3://BUCKET/KEY, and after it nothing or "
                f"?{_PINS[kind]}=NUMBER"
            )
        if scheme is not None:
            location = str(ObjectUrl.parse(f"{scheme}://{location}"))
        elif kind == "delta" or "/" in location:
            location = os.path.normpath(base.absolute() / location)
        elif location.count(".") < 2:
            raise DataError(f"{text}: expected CATALOG.NAMESPACE.TABLE, or ./{location} for a folder")
        return cls(kind, location, pin and int(pin[1]))

    def __str__(self) -> str:
        scheme, separator, rest = self.location.rpartition("://")
        query = "" if self.snapshot is None else f"?{_PINS[self.kind]}={self.snapshot}"
        return f"{self.kind}{'+' if separator else ''}{scheme}://{rest}{query}"

    def open(self) -> "Snapshot":
        """Read what a snapshot consists of. Raises DataError, MissingExtraError."""
        with _faults(self):
            opened = _open_delta(self) if self.kind == "delta" else _open_iceberg(self)
            if not opened.versions:
                raise DataError(f"{self}: the table has no rows yet")
            if opened.scan([]).select(pl.len()).collect().item():
                raise DataError(
                    f"{self}: polars {pl.__version__} reads other files of a table than it is given"
                )
        return opened


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a table."""

    number: int
    versions: Mapping[str, FileVersion]
    """Its data files, ascending."""
    scan: Callable[[list[str]], pl.LazyFrame]
    """Scans some of them, in order."""


_opened: dict[LakeTable, Snapshot] = {}
"""The last ones that were opened, so that not every range of rows reads the metadata."""
_MOST_OPENED = 16


def _open_pinned(table: LakeTable) -> Snapshot:
    return _opened.get(table) or _keep(table, table.open())


def _keep(table: LakeTable, opened: Snapshot) -> Snapshot:
    for old in list(_opened)[: 1 - _MOST_OPENED]:
        _opened.pop(old, None)
    _opened[table] = opened
    return opened


class LakeFormat:
    """Reads tables of a lakehouse, as a `TableFormat`."""

    def pin(self, address: str, base: Path) -> str:
        """Add its newest snapshot to the address of a table, if it names none."""
        table, (_, separator, file) = LakeTable.parse(address, base), address.partition("#")
        if table.snapshot is None:
            newest = table.open()
            table = replace(table, snapshot=newest.number)
            _keep(table, newest)
        return f"{table}{separator}{file}"

    def list_files(self, address: str, base: Path) -> dict[str, FileVersion]:
        """List the data files of a table, or one of them, by the name under which it is read."""
        pinned, separator, chosen = self.pin(address, base).partition("#")
        versions = _open_pinned(LakeTable.parse(pinned, base)).versions
        if separator and chosen not in versions:
            raise DataError(f"{pinned}: the table has no file {shorten(chosen, 200)}")
        return {f"{pinned}#{file}": versions[file] for file in ([chosen] if separator else versions)}

    def scan(self, address: str, files: Sequence[str]) -> pl.LazyFrame:
        """Scan data files that `list_files` lists."""
        table = LakeTable.parse(address, Path())
        with _faults(table):
            frame = _open_pinned(table).scan(list(files))
            frame.collect_schema()
        return frame


for _name in _PINS:
    TABLE_FORMATS.register(_name)(LakeFormat())


@contextmanager
def _faults(table: LakeTable) -> Iterator[None]:
    """Raise DataError, of one line, for whatever the libraries raise of a table that is damaged or not there."""
    try:
        with panics_as_errors():
            yield
    except CorankError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{table}: cannot be read: {shorten(reason, 300)}") from None


def _hash(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _open_delta(table: LakeTable) -> Snapshot:
    deltalake = require("deltalake", f"{table.kind}://")
    opened = deltalake.DeltaTable(table.location)
    newest = opened.version()
    if table.snapshot is not None and table.snapshot != newest:
        try:
            if table.snapshot > newest:  # which the library takes very long to find out
                raise ValueError
            opened.load_as_version(table.snapshot)
        except Exception:
            raise DataError(
                f"{table}: the table has no such version, or no more; the newest is {newest}"
            ) from None
    columns = ["path", "size_bytes", "modification_time"]
    actions = pl.DataFrame(opened.get_add_actions().select(columns)).sort("path")
    # not `file_uris`, which are encoded: a file of this machine is not found by such a name
    paths = [_plain_path(path, table.location) for path in actions["path"]]
    masks = pl.DataFrame(schema={"filepath": pl.String, "selection_vector": pl.List(pl.Boolean)})
    if "deletionVectors" in (opened.protocol().reader_features or ()):
        vectors = pl.DataFrame(opened.deletion_vectors()).select(masks.columns)
        uris = [_plain_path(uri, table.location) for uri in vectors["filepath"]]
        masks = vectors.with_columns(filepath=pl.Series(uris, dtype=pl.String))
    kept = {path: sha256(mask.to_numpy()).hexdigest() for path, mask in zip(*masks, strict=True)}
    schema, identity = opened.schema().to_json(), opened.metadata().id
    versions = {
        path: (size, _hash(identity, time, schema, kept.get(path)))
        for path, size, time in zip(paths, actions["size_bytes"], actions["modification_time"], strict=True)
    }

    def scan(files: list[str]) -> pl.LazyFrame:
        chosen = copy.copy(opened)
        # what polars asks a table for
        answers = {
            "file_uris": files,
            "get_add_actions": pl.DataFrame({"path": files}),
            "deletion_vectors": masks.filter(pl.col("filepath").is_in(files)),
        }
        vars(chosen).update({name: lambda answer=answer: answer for name, answer in answers.items()})
        return pl.scan_delta(chosen)

    return Snapshot(opened.version(), versions, scan)


def _plain_path(uri: str, root: str) -> str:
    """Decode the path of a file, which may be relative to the folder of its table."""
    path = unquote(uri).removeprefix("file://")
    return path if path.startswith("/") or "://" in path else f"{root}/{path}"


def _open_iceberg(table: LakeTable) -> Snapshot:
    require("pyiceberg.table", f"{table.kind}://")
    # a planner of polars' own, a package apart, would not ask the table for its files
    os.environ["POLARS_ICEBERG_PLANNER"] = "pyiceberg"
    opened = _load_iceberg(table)
    snapshot = opened.current_snapshot() if table.snapshot is None else opened.snapshot_by_id(table.snapshot)
    if snapshot is None and table.snapshot is None:
        return Snapshot(0, {}, lambda files: pl.LazyFrame())
    if snapshot is None:
        newest = opened.current_snapshot()
        raise DataError(
            f"{table}: the table has no such snapshot, or no more; the newest is {newest and newest.snapshot_id}"
        )
    tasks = {task.file.file_path: task for task in opened.scan(snapshot_id=snapshot.snapshot_id).plan_files()}
    deletes = {path: sorted(file.file_path for file in task.delete_files) for path, task in tasks.items()}
    schema = opened.schemas()[snapshot.schema_id].model_dump_json()
    identity = opened.metadata.table_uuid
    access = {key: value for key, value in opened.io.properties.items() if key.startswith(_ACCESS)}
    versions = {
        path: (tasks[path].file.file_size_in_bytes, _hash(identity, schema, deletes[path]))
        for path in sorted(tasks)
    }

    def scan(files: list[str]) -> pl.LazyFrame:
        data_scan = require("pyiceberg.table").DataScan
        chosen = copy.copy(opened)
        # a class of its own, for what narrows a scan makes another of its class
        planned = type("DataScan", (data_scan,), {"plan_files": lambda self: [tasks[file] for file in files]})
        vars(chosen)["scan"] = lambda **given: planned(table_metadata=opened.metadata, io=opened.io, **given)
        return pl.scan_iceberg(
            chosen,
            snapshot_id=snapshot.snapshot_id,
            storage_options=access or None,
            use_metadata_statistics=False,
        )

    return Snapshot(snapshot.snapshot_id, versions, scan)


def _load_iceberg(table: LakeTable) -> Any:
    """Load a table from its catalog, or from a file of metadata."""
    if "/" not in table.location:
        catalog, _, name = table.location.partition(".")
        return require("pyiceberg.catalog").load_catalog(catalog).load_table(name)
    # Arrow reads the other variables itself
    variables = {"s3.endpoint": "AWS_ENDPOINT_URL", "s3.region": "AWS_REGION"}
    given = {key: os.environ[name] for key, name in variables.items() if name in os.environ}
    return require("pyiceberg.table").StaticTable.from_metadata(table.location, given)

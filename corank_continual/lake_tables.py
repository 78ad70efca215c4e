"""Tables of a lakehouse, Delta Lake and Apache Iceberg: the data files of one snapshot, and the rows of some of them.

A config names the newest snapshot of a table, or one:

    delta://PATH  delta+s3://BUCKET/KEY  …?version=3
    iceberg://PATH  iceberg+s3://BUCKET/KEY  iceberg://CATALOG.NAMESPACE.TABLE  …?snapshot=4539101404912027376

`gs` and `az` stand for `s3` as well. A path is of a table's folder, or of one of Iceberg's metadata files; to tell it
from a name in a catalog, Iceberg's has a `/`. `also=s3://BUCKET` names another store whose files the table may name.
Here a data file has the name SNAPSHOT#FILE, so that each worker reads the same rows, in the same order, whatever is
committed meanwhile. polars reads it, with what the snapshot says of its columns, partition and deleted rows. Of the
metadata, neither row counts and statistics are trusted, nor where a table says it is to be read from: each location is
checked before it is read.
"""

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
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
_OPTION = r"(?:{pin}=([0-9]{{1,19}})|schema=([0-9]{{1,9}})|also=([a-z][a-z0-9+]*://[\w.@-]+))"
_ACCESS = ("s3.", "gcs.", "adls.")
_METADATA_NAME = re.compile(r"[\w.-]{1,200}")


@dataclass(frozen=True)
class LakeTable:
    """The address of a table."""

    kind: str
    location: str
    """An absolute path, the URL of an object, or a name in a catalog."""
    snapshot: int | None
    """The newest if None."""
    schema: int | None = None
    """Of Iceberg's schemas the one to read a snapshot by, if it is not the snapshot's own."""
    also: tuple[str, ...] = ()
    """Other stores in which its files may be, such as `s3://BUCKET`."""

    @classmethod
    def parse(cls, text: str, base: Path) -> Self:
        """Read the address of a table; a path is relative to a folder. Raises DataError, StorageError."""
        match = _URI.fullmatch(text)
        assert match is not None
        kind, scheme, location, query, _ = match.groups()
        option = re.compile(_OPTION.format(pin=_PINS[kind]))
        options = [option.fullmatch(part) for part in ([] if query is None else query.split("&"))]
        pins, schemas, also = ([one[n] for one in options if one and one[n]] for n in (1, 2, 3))
        most = len(pins) if kind == "iceberg" else 0
        if not location or None in options or len(pins) > 1 or len(schemas) > most:
            raise DataError(
                f"{shorten(text, 300)}: expected {kind}://PATH or {kind}+s3://BUCKET/KEY, and after it nothing or "
                f"?{_PINS[kind]}=NUMBER, or ?also=s3://BUCKET for files in another store, joined by &"
            )
        if scheme is not None:
            location = str(ObjectUrl.parse(f"{scheme}://{location}"))
        elif kind == "delta" or "/" in location:
            location = os.path.normpath(base.absolute() / location)
        elif location.count(".") < 2:
            raise DataError(f"{text}: expected CATALOG.NAMESPACE.TABLE, or ./{location} for a folder")
        pin, schema = (int(found[0]) if found else None for found in (pins, schemas))
        return cls(kind, location, pin, schema, tuple(also))

    def __str__(self) -> str:
        scheme, separator, rest = self.location.rpartition("://")
        numbers = {_PINS[self.kind]: self.snapshot, "schema": self.schema}
        options = [f"{key}={number}" for key, number in numbers.items() if number is not None]
        query = "&".join([*options, *(f"also={store}" for store in self.also)])
        return f"{self.kind}{'+' if separator else ''}{scheme}://{rest}{'?' if query else ''}{query}"

    def open(self) -> "Snapshot":
        """Read what a snapshot consists of. Raises DataError, MissingExtraError."""
        with _faults(self):
            opened = _open_delta(self) if self.kind == "delta" else _open_iceberg(self)
            if not opened.versions:
                raise DataError(f"{self}: the table has no rows yet")
            _check_sizes(self, opened.versions)
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
    schema: int | None = None
    """As of a LakeTable."""


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
            table = replace(table, snapshot=newest.number, schema=newest.schema)
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


def _check_location(table: LakeTable, root: str, path: str) -> None:
    """Raise DataError if a file is not to be read.

    It is in another store than its table, on this machine or not, or in a bucket that the address does not name; or it
    is a pipe or a device, whose reader may wait for ever.
    """
    store = _store(path)
    if store not in (_store(root), *map(_store, table.also)):
        hint = f"; if it is to be read, add also={store} to the address" if "://" in store else ""
        raise DataError(f"{table}: names a file in another store: {shorten(path, 200)}{hint}")
    # of one that is not there its reader says so
    if not store and (found := _local_path(path)).exists() and not found.is_file():
        raise DataError(f"{table}: {shorten(path, 200)} is no file")


def _store(path: str) -> str:
    """The store of a file: "" for this machine, or scheme and bucket; of what has neither the whole text."""
    if path.startswith(("/", "file:")):
        return ""
    match = re.match(r"(\w[\w+.-]*://[^/]+)", path)
    return path if match is None else re.sub("^s3[an]://", "s3://", match[1])


def _local_path(path: str) -> Path:
    return Path("/", path.removeprefix("file:").lstrip("/"))


def _check_sizes(table: LakeTable, versions: Mapping[str, FileVersion]) -> None:
    """Raise DataError for a data file of this machine that has another size than the table says.

    A library panics at one that was cut off.
    """
    for path, (size, _) in versions.items():
        if not _store(path):
            with suppress(OSError):  # the reader of what is not there says so
                if (found := _local_path(path).stat().st_size) != size:
                    raise DataError(
                        f"{table}: {shorten(path, 200)} has {found:,} bytes, where the table says {size:,}: it was cut "
                        "off or replaced; restore it"
                    )


def _hash(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _open_delta(table: LakeTable) -> Snapshot:
    deltalake = require("deltalake", f"{table.kind}://")
    if not _store(table.location):
        for entry in Path(table.location, "_delta_log").glob("*"):
            if not entry.is_dir():
                _check_location(table, table.location, str(entry))
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
    for path in paths:
        _check_location(table, table.location, path)
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
    opened, root = _load_iceberg(table)
    snapshot = opened.current_snapshot() if table.snapshot is None else opened.snapshot_by_id(table.snapshot)
    if snapshot is None and table.snapshot is None:
        return Snapshot(0, {}, lambda files: pl.LazyFrame())
    if snapshot is None:
        newest = opened.current_snapshot()
        raise DataError(
            f"{table}: the table has no such snapshot, or no more; the newest is {newest and newest.snapshot_id}"
        )
    own = snapshot.schema_id
    by = table.schema if table.snapshot is not None else opened.metadata.current_schema_id
    if by not in (None, own):
        # both libraries read a snapshot by the schema that it names
        snapshot = snapshot.model_copy(update={"schema_id": by})
        others = [one for one in opened.metadata.snapshots if one.snapshot_id != snapshot.snapshot_id]
        opened.metadata = opened.metadata.model_copy(update={"snapshots": [*others, snapshot]})
    tasks = {task.file.file_path: task for task in opened.scan(snapshot_id=snapshot.snapshot_id).plan_files()}
    deletes = {path: sorted(file.file_path for file in task.delete_files) for path, task in tasks.items()}
    for path in chain(tasks, *deletes.values()):
        _check_location(table, root, path)
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

    return Snapshot(snapshot.snapshot_id, versions, scan, None if by == own else by)


def _load_iceberg(table: LakeTable) -> tuple[Any, str]:
    """Load the metadata of a table: from its catalog, or from a file, whose own settings of access are not used.

    Returns also a location in the table's own store, out of which it reads nothing.
    """
    if "/" not in table.location:
        catalog, _, name = table.location.partition(".")
        opened = require("pyiceberg.catalog").load_catalog(catalog).load_table(name)
        _keep_within(opened.io, table, opened.metadata_location)
        return opened, opened.metadata_location
    # Arrow reads the other variables itself
    variables = {"s3.endpoint": "AWS_ENDPOINT_URL", "s3.region": "AWS_REGION"}
    given = {key: os.environ[name] for key, name in variables.items() if name in os.environ}
    io = require("pyiceberg.io").load_file_io(given, table.location)
    _keep_within(io, table, table.location)
    location = table.location
    if not location.endswith(".metadata.json"):
        with io.new_input(f"{location}/metadata/version-hint.text").open() as file:
            hint = file.read(300).decode("utf-8", "replace").strip()
        if _METADATA_NAME.fullmatch(hint) is None:
            raise DataError(
                f"{table}: metadata/version-hint.text holds {shorten(hint)!r}, no name of metadata"
            )
        name = hint.removesuffix(".metadata.json")
        location = f"{location}/metadata/{'v' if name.isdecimal() else ''}{name}.metadata.json"
    metadata = require("pyiceberg.serializers").FromInputFile.table_metadata(io.new_input(location))
    noop = require("pyiceberg.catalog.noop").NoopCatalog("files")
    opened = require("pyiceberg.table").StaticTable(("files", location), metadata, location, io, noop)
    return opened, table.location


def _keep_within(io: Any, table: LakeTable, root: str) -> None:
    """Let what reads a table's files check the location of each before it is asked for."""
    inner = io.new_input

    def new_input(location: str) -> Any:
        _check_location(table, root, location)
        return inner(location)

    vars(io)["new_input"] = new_input

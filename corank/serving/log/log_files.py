"""The files of the log of served requests: `served-*.parquet`, and `rejected-*.jsonl` for what has no rows there.

Both are written under a temporary name, forced to disk, and renamed when they are complete.
"""

import uuid
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from corank.core.files import atomic_file, make_private_folder
from corank.serving.log.log_format import REQUEST
from corank.serving.log.served_request import ServedRequest

GROUP_ROWS, GROUP_BYTES = 16_384, 8 * 2**20
"""A row group is written once there are so many rows, or bytes in memory."""
PRIVATE = 0o600
"""Served requests hold ids and columns of users: only the owner may read them."""


class OpenLogFiles:
    """One Parquet file and one file of rejected requests, until they are completed or discarded."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        """`schema` is that of the rows, in which texts that repeat may be dictionaries."""
        self._folder, self.schema = folder, schema
        self._mark = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._aside: BinaryIO | None = None
        self._tables: list[pa.Table] = []
        self._bytes = 0
        self.rows, self.rejected = 0, 0

    @property
    def served_path(self) -> Path:
        """Where the rows will be."""
        return self._folder / f"served-{self._mark}.parquet"

    @property
    def rejected_path(self) -> Path:
        """Where rejected requests will be."""
        return self._folder / f"rejected-{self._mark}.jsonl"

    def write(self, table: pa.Table) -> None:
        """Add rows, all of one schema. Raises OSError if the disk refuses."""
        if self._writer is None:
            plain = [name for name in table.schema.names if name != REQUEST]
            # statistics of the requests would be whole requests
            writer = pq.ParquetWriter(
                self._open(self.served_path),
                table.schema,
                compression="zstd",
                use_dictionary=[n for n in plain if not pa.types.is_floating(table.schema.field(n).type)],
                write_statistics=plain,
                store_schema=False,  # texts that repeat are dictionaries here alone
            )
            # without the Arrow schema, the metadata of that is not written either
            writer.add_key_value_metadata(self.schema.metadata)
            self._writer = self._stack.enter_context(writer)
        self._tables.append(table)
        self.rows += len(table)
        self._bytes += table.nbytes
        if sum(map(len, self._tables)) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write_group()

    def reject(self, served: ServedRequest, reason: str) -> None:
        """Set a request aside, a line of JSON with the reason. Raises OSError if the disk refuses."""
        if self._aside is None:
            self._aside = self._stack.enter_context(self._open(self.rejected_path).open("wb"))
        line = {
            "reason": reason,
            "request": msgspec.Raw(served.request),
            "model_version": served.model_version,
            "items_seq": served.items_seq,
            "items_id": served.items_id,
            "served_id": served.id,
            "served_role": served.role,
        }
        self._aside.write(msgspec.json.encode(line) + b"\n")
        self.rejected += 1

    def complete(self) -> None:
        """Force both files to disk and give them their names. Raises OSError; both are discarded then."""
        try:
            self._write_group()
        except BaseException:
            self.give_up()
            raise
        self._stack.close()

    def give_up(self) -> None:
        """Remove both files."""
        failure = OSError("given up")
        try:
            self._stack.__exit__(OSError, failure, None)
        except OSError:
            return

    def _open(self, path: Path) -> Path:
        make_private_folder(self._folder)
        partial = self._stack.enter_context(atomic_file(path))
        partial.chmod(PRIVATE)
        return partial

    def _write_group(self) -> None:
        if self._tables and self._writer is not None:
            table = pa.concat_tables(self._tables).unify_dictionaries()
            self._tables, self._bytes = [], 0
            self._writer.write_table(table, row_group_size=len(table))

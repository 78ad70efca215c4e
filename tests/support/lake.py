"""Small tables of a lakehouse, written by the libraries of their formats."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


@dataclass
class DeltaLake:
    """A table of Delta Lake in a folder."""

    folder: Path

    kind = "delta"
    pin = "version"

    def __post_init__(self) -> None:
        pytest.importorskip("deltalake")

    @property
    def uri(self) -> str:
        return f"delta://{self.folder}"

    @property
    def table(self) -> Any:
        from deltalake import DeltaTable

        return DeltaTable(str(self.folder))

    @property
    def number(self) -> int:
        return int(self.table.version())

    def append(self, frame: pl.DataFrame, by: str | None = None) -> None:
        from deltalake import write_deltalake

        self.folder.parent.mkdir(exist_ok=True)
        new = not self.folder.exists()
        settings = {"delta.enableDeletionVectors": "true"} if new else None
        write_deltalake(
            str(self.folder),
            frame,
            mode="append",
            partition_by=[by] if by and new else None,
            configuration=settings,
            schema_mode="merge",
        )

    def delete(self, rule: str) -> None:
        self.table.delete(rule)

    def compact(self) -> None:
        self.table.optimize.compact()

    def mark_deleted(self, rows: list[int]) -> None:
        """Delete rows of the first file by a deletion vector, which the library reads and does not write."""
        from pyroaring import BitMap64

        log = self.folder / "_delta_log"
        lines = (log / f"{0:020}.json").read_text().splitlines()
        add = next(action["add"] for action in map(json.loads, lines) if "add" in action)
        content = struct.pack("<I", 1681511377) + BitMap64(rows).serialize()
        vector = {
            "storageType": "i",
            "pathOrInlineDv": _encode(content),
            "sizeInBytes": len(content),
            "cardinality": len(rows),
        }
        gone = {"path": add["path"], "dataChange": True, "deletionTimestamp": 1}
        actions = [{"remove": gone}, {"add": add | {"deletionVector": vector}}]
        (log / f"{self.number + 1:020}.json").write_text("\n".join(map(json.dumps, actions)))


@dataclass
class Iceberg:
    """A table of Iceberg in a folder, with a catalog next to it."""

    folder: Path

    kind = "iceberg"
    pin = "snapshot"

    def __post_init__(self) -> None:
        pytest.importorskip("pyiceberg")
        pytest.importorskip("sqlalchemy")

    @property
    def uri(self) -> str:
        return f"iceberg://{self.folder}"

    @property
    def properties(self) -> dict[str, str]:
        """Of the catalog."""
        uri = f"sqlite:///{self.folder.with_suffix('.db')}"
        return {"type": "sql", "uri": uri, "warehouse": f"file://{self.folder.parent}"}

    @property
    def table(self) -> Any:
        from pyiceberg.catalog.sql import SqlCatalog

        return SqlCatalog("shop", **self.properties).load_table("lake.log")

    @property
    def number(self) -> int:
        return int(self.table.current_snapshot().snapshot_id)

    def append(self, frame: pl.DataFrame, by: str | None = None) -> None:
        from pyiceberg.catalog.sql import SqlCatalog

        self.folder.parent.mkdir(exist_ok=True)
        arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if not self.folder.exists():
            catalog = SqlCatalog("shop", **self.properties)
            catalog.create_namespace("lake")
            made = catalog.create_table("lake.log", arrow.schema, location=f"file://{self.folder}")
            if by is not None:
                with made.update_spec() as spec:
                    spec.add_identity(by)
        table = self.table
        with table.update_schema() as schema:
            schema.union_by_name(arrow.schema)
        table.append(arrow)
        self.hint()

    def hint(self) -> None:
        """Name the newest metadata in the folder, as catalogs of folders do."""
        name = self.table.metadata_location.rpartition("/")[2]
        (self.folder / "metadata" / "version-hint.text").write_text(name)

    def delete(self, rule: str) -> None:
        self.table.delete(rule)
        self.hint()

    def compact(self) -> None:
        table = self.table
        table.overwrite(table.scan().to_arrow())
        self.hint()


LakeKind = type[DeltaLake] | type[Iceberg]
LAKES: list[LakeKind] = [DeltaLake, Iceberg]


def _encode(content: bytes) -> str:
    """Encode bytes in Z85."""
    content += b"\0" * (-len(content) % 4)
    text = ""
    for n in range(0, len(content), 4):
        number = int.from_bytes(content[n : n + 4], "big")
        text += "".join(_Z85[number // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return text

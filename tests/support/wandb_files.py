"""Files that W&B wrote in offline mode: records of its protocol, in the log format of LevelDB."""

import json
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.waiting import eventually

HEADER = 7
"""Bytes before the first block."""
BLOCK = 32_768
"""Bytes of a block, which ends in zeros if no chunk fits any more."""


def records(folder: Path) -> list[Any]:
    """The records of the one offline run below a folder, the run's end among them.

    W&B writes in a process of its own, which may write the last block a moment after `finish` has returned.
    """
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    eventually(lambda: any(record.WhichOneof("record_type") == "exit" for record in _read(file)))
    return _read(file)


def _read(file: Path) -> list[Any]:
    """The records that a file holds now."""
    entries = []
    for data in _whole_records(file.read_bytes()):
        record = import_module("wandb.proto.wandb_internal_pb2").Record()
        record.ParseFromString(data)
        entries.append(record)
    return entries


def _whole_records(data: bytes) -> Iterator[bytes]:
    """Records joined of chunks, each with a checksum, a length, and whether it is the first, a middle or the last."""
    at, parts = HEADER, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):
            return  # the rest is not written yet
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, last
            yield parts
            parts = b""


def values(items: Any) -> dict[str, Any]:
    """Items of a record: key → value."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

"""Arrow messages are read by another process first: what kills or stops it is a fault of the message."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from corank.core.errors import DataError, StreamError
from corank_continual.streams import arrow_reader
from corank_continual.streams.arrow_reader import ArrowReader
from corank_continual.streams.messages import read_arrow
from tests.support.kafka_broker import to_arrow
from tests.support.mortal_reader import COMMAND, DEADLY
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
ROWS: Sequence[Any] = [{"item_id": 7, "tags": ["a", "bc"]}, {"item_id": 8, "tags": []}]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArrowReader]:
    """A reader that a message of `DEADLY` kills."""
    monkeypatch.setattr(arrow_reader, "COMMAND", COMMAND)
    yield (made := ArrowReader())
    made.end()


def damaged() -> bytes:
    """A message whose list points far beyond its values."""
    offsets = np.array([0, 2, 2], np.int32).tobytes()
    value = to_arrow(ROWS)
    assert value.count(offsets) == 1
    return value.replace(offsets, np.array([0, 2**30, 2**30], np.int32).tobytes())


def compressed() -> bytes:
    """A small message of more rows than fit into memory."""
    out, column = BytesIO(), pa.array(np.zeros(arrow_reader.MEMORY // 8 + 1, np.int64))
    with pa.ipc.new_stream(
        out, pa.schema({"n": pa.int64()}), options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as stream:
        stream.write_batch(pa.record_batch([column], ["n"]))
    assert len(out.getvalue()) < 2**20
    return out.getvalue()


def test_a_sound_message_is_read() -> None:
    assert read_arrow(to_arrow(ROWS)).to_pylist() == ROWS


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (damaged(), "Column 1: In chunk 0: Invalid"),
        (compressed(), "malloc of size"),
        (to_arrow(pa.table([pa.array([1])] * 2, ["item_id"] * 2)), "a column is there twice: item_id"),
        (to_arrow(ROWS).replace(b"item_id", b"item_i\xff"), "codec can't decode byte"),
    ],
)
def test_what_arrow_cannot_take_is_refused(value: bytes, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        read_arrow(value)


def test_a_message_that_kills_its_reader_is_at_fault_and_the_next_is_read(reader: ArrowReader) -> None:
    deadly, sound = to_arrow([{DEADLY: 1}]), to_arrow(ROWS)
    faults = [reader.find_fault(value) for value in (sound, deadly, sound, deadly, sound)]
    fault = "it ends the process that reads it"
    assert faults == ["", fault, "", fault, ""]


def test_a_message_is_not_at_fault_for_a_reader_that_ended_otherwise(reader: ArrowReader) -> None:
    assert reader.find_fault(to_arrow(ROWS)) == ""
    (process,) = (one for one in psutil.Process().children() if COMMAND[-1] in one.cmdline())
    process.terminate()  # which it ignores: a follower that ends reads on
    os.kill(process.pid, signal.SIGINT)
    assert reader.find_fault(to_arrow(ROWS)) == "" and process.is_running()
    process.kill()
    eventually(lambda: process.status() == psutil.STATUS_ZOMBIE)
    assert reader.find_fault(to_arrow(ROWS)) == ""


def test_a_message_that_takes_for_ever_is_at_fault(
    reader: ArrowReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reader.find_fault(to_arrow(ROWS)) == ""
    monkeypatch.setattr(arrow_reader, "SECONDS", 0)
    assert reader.find_fault(to_arrow(ROWS)) == "it takes longer than 0 s to read"


def test_a_reader_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_reader, "COMMAND", (sys.executable, "-c", ""))
    with pytest.raises(StreamError, match="no process can be started to read Arrow messages"):
        ArrowReader().find_fault(b"")

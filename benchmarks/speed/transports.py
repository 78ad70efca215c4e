"""Requests in other forms than a body of JSON: MessagePack, batches, and the query ahead of its candidates."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from benchmarks.load import Connection, message

BATCH = 16
"""Requests of a batch."""
RETRIEVAL = 0.003
"""Seconds that a caller takes to find its candidates."""
Asked = Mapping[str, Any]


def packed(asked: Asked) -> bytes:
    """MessagePack, with candidates as bytes."""
    candidates = np.array(asked["candidates"], dtype="<i8").tobytes()
    body = msgspec.msgpack.encode({**asked, "candidates": candidates})
    return message(body, content_type="application/msgpack")


def batches(asked: Sequence[Asked]) -> list[bytes]:
    """Batches of so many requests each."""
    return [
        message(msgspec.json.encode({"requests": asked[n : n + BATCH]}), "/rank/batch")
        for n in range(0, len(asked) - BATCH + 1, BATCH)
    ]


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


def in_two(asked: Asked) -> tuple[bytes, bytes]:
    """The parts sent before and after the candidates are known."""
    query = {name: value for name, value in asked.items() if name != "candidates"}
    lines = ["POST /rank/ahead HTTP/1.1", "Host: localhost", "Content-Type: application/x-ndjson"]
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()
    first = head + chunk(msgspec.json.encode(query) + b"\n")
    return first, chunk(msgspec.json.encode(asked["candidates"])) + b"0\r\n\r\n"


async def ahead_figures(port: int, asked: Sequence[Asked], rounds: int) -> dict[str, float]:
    """Time from when the candidates are known to the answer: of whole requests, and with the query ahead."""
    whole, parts = [message(msgspec.json.encode(one)) for one in asked], [in_two(one) for one in asked]
    connection = await Connection.open(port)
    times: dict[str, list[float]] = {"whole": [], "ahead": []}
    for n in range(rounds * len(asked)):
        for name in times:
            number = (n + (name == "ahead") * len(asked) // 2) % len(asked)
            if name == "ahead":
                connection.send(parts[number][0])
            await asyncio.sleep(RETRIEVAL)
            began = time.perf_counter()
            status, _ = await connection.ask(parts[number][1] if name == "ahead" else whole[number])
            assert status == 200
            times[name].append(time.perf_counter() - began)
    connection.close()
    medians = {name: float(np.median(seconds)) * 1e6 for name, seconds in times.items()}
    saved = float(np.median(np.array(times["whole"]) - np.array(times["ahead"]))) * 1e6
    return {f"after_candidates.{name}_us": value for name, value in medians.items()} | {
        "after_candidates.saved_us": saved
    }

"""Clients that are hostile: slow heads and bodies, floods of headers, huge filters, unknown ids, idle ones."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

BODY = 4 << 20
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

Hostile = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"GET /version HTTP/1.1\r\nHost: localhost\r\n"


def message(body: bytes) -> bytes:
    """A POST as it goes over the wire."""
    head = "POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


async def send_slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"X: ")
    await drip(writer)


async def send_slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(message(b"")[:-5] + b"%d\r\n\r\n" % BODY)
    await drip(writer)


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte a second."""
    while True:
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(1)


async def flood_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    for _ in range(1000):
        writer.write(b"X: " + b"a" * 200_000 + b"\r\n")
        await writer.drain()


async def leave_body_unfinished(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(message(b" " * BODY)[:-1])
    await reader.read()


async def stay_idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.read(1000)
    await reader.read()


async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    while True:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def send_huge_filter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A filter of four megabytes, then one that is as long as it may be, for ever."""
    huge = json.dumps({"user": {}, "where": {"category": list(range(550_000))}}).encode()
    while True:
        values = [f"v{random.random()}" for _ in range(1000)]
        for body in (huge, json.dumps({"user": {}, "where": {"category": values, "tags": values}}).encode()):
            writer.write(message(body))
            await read_answer(reader)


async def send_unknown_ids(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        first = random.randrange(10**9, 10**12)
        body = json.dumps({"user": {"id": first}, "candidates": list(range(first, first + 10_000))}).encode()
        writer.write(message(body))
        await read_answer(reader)
        await asyncio.sleep(0.05)


async def read_answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    assert length is not None
    await reader.readexactly(int(length[1]))


@dataclass(frozen=True)
class Attack:
    """What so many clients do at once; each connects again some seconds after it was cut off."""

    clients: int
    act: Hostile
    again: float = 1.0


ATTACKS = {
    "slow_heads": Attack(400, send_slow_head),
    "slow_bodies": Attack(400, send_slow_body),
    "headers": Attack(4, flood_headers),
    "bodies": Attack(
        100, leave_body_unfinished, again=5.0
    ),  # else it is a flood of bytes, which no limit stops
    "idle": Attack(1500, stay_idle),
    "unread": Attack(100, read_nothing),
    "filters": Attack(1, send_huge_filter),
    "unknown": Attack(1, send_unknown_ids),
}


def attack(name: str, port: int) -> None:
    """Attack until killed. Runs as a process that gives way to the honest clients, whose core it shares."""
    os.nice(19)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    async def be_hostile(number: int, one: Attack) -> None:
        await asyncio.sleep(number / one.clients * 2)
        while True:
            with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
                try:
                    await one.act(reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(one.again)

    async def attack_together() -> None:
        one = ATTACKS[name]
        await asyncio.gather(*(be_hostile(number, one) for number in range(one.clients)))

    asyncio.run(attack_together())


@contextlib.contextmanager
def attacking(name: str | None, port: int) -> Iterator[None]:
    if name is None:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=attack, args=(name, port), daemon=True)
    process.start()
    time.sleep(3)  # until it is under way
    try:
        yield
    finally:
        process.kill()
        process.join()

"""Requests of many users, which several connections send to a service one after the other."""

import asyncio
import random
import time
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import msgspec
import numpy as np

from benchmarks.load import Connection, message

CONNECTIONS, PAUSE = 4, 0.03
"""Seconds that each lets pass before it asks again."""
FIRST_USER, USERS = 10_000, 40_000
"""Ids of users are equally long, so that messages are, too."""


@dataclass
class Asked:
    """Outcomes of requests: of each its number, its user, its answer, and how long it took, seconds."""

    answers: list[tuple[int, int, bytes]] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    failed: int = 0

    def milliseconds(self, share: float) -> float:
        return float(np.percentile(self.waited, share) * 1e3)


def of_user(body: dict[str, Any], user: int) -> dict[str, Any]:
    """A request as another user sends it."""
    return body | {"user": body["user"] | {"id": user}}


async def ask(port: int, bodies: Sequence[dict[str, Any]], rng: random.Random, asked: Asked) -> None:
    """One connection's, until it is cancelled."""
    connection = await Connection.open(port)
    while True:
        number, user = rng.randrange(len(bodies)), FIRST_USER + rng.randrange(USERS)
        sent = message(msgspec.json.encode(of_user(bodies[number], user)))
        began = time.perf_counter()
        try:
            status, body = await connection.ask(sent)
        except ConnectionError:
            status, connection = 0, await Connection.open(port)
        if status == 200:
            asked.waited.append(time.perf_counter() - began)
            asked.answers.append((number, user, body))
        else:
            asked.failed += 1
        await asyncio.sleep(PAUSE)


async def asked_during(
    until: Awaitable[object],
    port: int,
    bodies: Sequence[dict[str, Any]],
    *others: Coroutine[Any, Any, None],
) -> Asked:
    """Outcomes of requests until something ended; `others` run concurrently."""
    asked, rng = Asked(), random.Random(0)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(port, bodies, rng, asked)) for _ in range(CONNECTIONS)]
        tasks += [group.create_task(other) for other in others]
        await until
        for task in tasks:
            task.cancel()
    return asked


class UserMessages(Sequence[bytes]):
    """Requests as they go over the wire, each of another user: encoded once, and the id put in when one is sent."""

    def __init__(self, bodies: Sequence[dict[str, Any]]) -> None:
        whole = (message(msgspec.json.encode(of_user(body, FIRST_USER))) for body in bodies)
        self._parts = [sent.partition(b'"id":%d' % FIRST_USER) for sent in whole]

    def __len__(self) -> int:
        return USERS

    @overload
    def __getitem__(self, number: int) -> bytes: ...

    @overload
    def __getitem__(self, number: slice) -> list[bytes]: ...

    def __getitem__(self, number: int | slice) -> bytes | list[bytes]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(USERS))]
        head, _, tail = self._parts[number % len(self._parts)]
        return b'%s"id":%d%s' % (head, FIRST_USER + number, tail)

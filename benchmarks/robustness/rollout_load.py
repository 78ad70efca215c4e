"""A canary and a shadow next to the live version of a service, and requests of many users.

`changed_users` had both the canary and the live version; `share_error` is how far the canary's share of the requests is
from what was asked, in points.
"""

import asyncio
import random
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np

from benchmarks import harness
from benchmarks.load import Connection, message
from corank_serve.store.base import Store
from corank_serve.store.publish import publish_bundle

CONNECTIONS, PAUSE = 4, 0.03
"""Seconds that each lets pass before it asks again."""
FIRST_USER, USERS, CANARY_PERCENT = 10_000, 40_000, 5.0
"""Ids of users are equally long, so that messages are, too."""
AIMS = {
    "changed_users": ("==", 0.0),
    "share_error": ("<=", 0.5),
    "shadow_scored": (">=", 1.0),
}
METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


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


def stage(store: Store, canary: Path, shadow: Path, percent: float = CANARY_PERCENT) -> list[str]:
    """Stage two bundles, and return the options by which `corank serve` has them as canary and shadow."""
    versions = [publish_bundle(bundle, store, stage=True) for bundle in (canary, shadow)]
    return ["--canary", f"{versions[0]}:{percent:g}%", "--shadow", versions[1]]


@dataclass
class AssignedUsers:
    """Which users were answered by which version."""

    roles: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    requests: int = 0
    canary: int = 0
    """Requests that the canary answered."""

    @classmethod
    def of(cls, answers: Sequence[tuple[int, int, bytes]]) -> "AssignedUsers":
        """Count the answers of `Asked`."""
        assigned = cls()
        for _, user, body in answers:
            assigned.add(user, body)
        return assigned

    def add(self, user: int, body: bytes) -> None:
        """Count an answer."""
        role = msgspec.json.decode(body, type=VersionOfAnswer).role
        self.roles[user].add(role)
        self.requests += 1
        self.canary += role == "canary"

    def figures(self) -> dict[str, harness.Figure]:
        """How many users there were, and whether the share was kept."""
        percent = 100 * self.canary / self.requests
        return {
            "users": len(self.roles),
            "changed_users": sum(len(roles) > 1 for roles in self.roles.values()),
            "canary_percent": percent,
            "share_error": abs(percent - CANARY_PERCENT),
        }


class VersionOfAnswer(msgspec.Struct):
    """The part of an answer that says by which version it was ranked."""

    role: str


async def shadow_figures(port: int) -> dict[str, harness.Figure]:
    """Outcomes of requests that were offered to the shadow, in all workers."""
    connection = await Connection.open(port)
    _, body = await connection.ask(METRICS)
    connection.close()
    matches = re.findall(r'corank_shadow_requests_total{outcome="(\w+)"} ([0-9.e+]+)', body.decode())
    counts = {outcome: float(count) for outcome, count in matches}
    return {f"shadow_{outcome}": counts.get(outcome, 0.0) for outcome in ("scored", "dropped", "failed")}

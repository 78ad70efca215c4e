"""Endpoints that change what is served: POST /items and POST /reload."""

import asyncio
from collections.abc import Callable

from corank.core.errors import StoreError
from corank.serving.http.access.audit import name_change
from corank.serving.http.endpoints.state import describe_version
from corank.serving.http.follower import Follower
from corank.serving.http.process.daemon_threads import DaemonThreads
from corank.serving.http.source import StoreSource
from corank.serving.http.transport.body import RETRY_AFTER, BodyReader
from corank.serving.http.transport.call import HttpCall
from corank.serving.http.transport.codec import answer_to
from corank.serving.http.transport.reply import HttpReply, RefusedError
from corank.serving.http.transport.schemas import Items
from corank.serving.store.upsert import VersionChangedError, upsert

CHECK_SECONDS = 30.0
"""Longest time that a client waits until the source has been checked."""
WRITERS, WRITES = 2, 16
"""Threads that write into the store, and writes that may run or wait."""


class ChangeEndpoints:
    """Writes items into the store, and looks for newer versions."""

    def __init__(self, follower: Follower, bodies: BodyReader) -> None:
        """
        Args:
            follower: holds the live funnel.
            bodies: reads the worker's bodies.
        """
        self._follower, self._bodies = follower, bodies
        self._writers = DaemonThreads("corank-write", WRITERS, WRITES)

    async def put_items(self, call: HttpCall) -> HttpReply:
        """POST /items: insert or replace items of the live version."""
        source = self._follower.source
        if not isinstance(source, StoreSource) or source.trusted is not None:
            raise RefusedError(409, source.without_items)
        with await self._bodies.read(call) as body:
            rows = body.decode(Items).rows()
            call.change = {"items": len(rows)}
            try:
                funnel, by = self._follower.funnel, call.caller
                version = funnel.manifest.content
                seq = await self._write(lambda: upsert(source.open(), version, funnel, rows, by))
            except VersionChangedError as error:
                self._follower.request_refresh()
                raise RefusedError(503, str(error), {"Retry-After": RETRY_AFTER}) from None
            except StoreError as error:
                raise RefusedError(503, str(error), {"Retry-After": RETRY_AFTER}) from None
        call.change |= {"version": version, "to": {"items_seq": seq}, "from": {"items_seq": seq - 1}}
        answer = {"items": len(rows), "items_seq": seq}
        if not await self._check_source():
            return answer_to(call, answer | {"live": False})
        after = self._follower.funnel.manifest
        if (
            after.items_seq == seq
        ):  # else another change has followed, and the store's log has the id of this one
            call.change["to"] = name_change(after)
        return answer_to(call, answer)

    async def _write(self, write: Callable[[], int]) -> int:
        """Write into the store in a thread. Raises RefusedError if too many writes are waiting."""
        done = self._writers.submit(write)
        if done is None:
            raise RefusedError(503, f"{WRITES} writes are waiting; try again", {"Retry-After": RETRY_AFTER})
        return await asyncio.wrap_future(done)

    async def _check_source(self) -> bool:
        """Let the follower check the source, and return whether it did so in time."""
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._follower.next_check()), CHECK_SECONDS)
        except TimeoutError:
            return False
        return self._follower.trouble is None

    async def reload(self, call: HttpCall) -> HttpReply:
        """POST /reload: check for a new version now."""
        before = self._follower.funnel.manifest
        if not await self._check_source():
            trouble = self._follower.trouble or f"the source is still being read after {CHECK_SECONDS:g} s"
            raise RefusedError(503, trouble, {"Retry-After": RETRY_AFTER})
        after = self._follower.funnel.manifest
        call.change = {"from": name_change(before), "to": name_change(after)}
        return answer_to(call, describe_version(self._follower))

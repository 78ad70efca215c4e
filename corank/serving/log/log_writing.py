"""Writing the log of served requests outside the event loop, in threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from corank.core.errors import CorankError
from corank.core.types import Report
from corank.serving.log.role_logs import RoleLogs

FLUSH_SECONDS = 0.25
"""Seconds between two writes."""

CountLogged = Callable[[Mapping[str, int]], None]
"""Receives how many requests were `written`, `rejected` and `dropped`."""


@asynccontextmanager
async def writing(log: RoleLogs | None, report: Report, count: CountLogged) -> AsyncIterator[None]:
    """Write what waits several times a second while the block runs, and the rest at its end; nothing without a log.

    A disk that refuses is reported.
    """
    if log is None:
        yield
        return
    task = asyncio.create_task(_write_regularly(log, report, count))
    yield
    task.cancel()
    await _flush(log, report, count, complete=True)


async def _write_regularly(log: RoleLogs, report: Report, count: CountLogged) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await _flush(log, report, count)


async def _flush(log: RoleLogs, report: Report, count: CountLogged, complete: bool = False) -> None:
    try:
        if complete or log.is_due():
            await asyncio.to_thread(log.flush, complete)
    except CorankError as error:
        report(str(error))
    count(log.take_counts())

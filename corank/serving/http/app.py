"""The service of one worker process: its parts, its table of endpoints, and its background tasks."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from corank.serving.http.access.control import AccessControl
from corank.serving.http.access.guard import guard
from corank.serving.http.access.tokens import Scope
from corank.serving.http.endpoints.changes import ChangeEndpoints
from corank.serving.http.endpoints.ranking import RankEndpoints
from corank.serving.http.endpoints.state import StateEndpoints
from corank.serving.http.follower import Follower
from corank.serving.http.lookup.user_lookup import UserLookup
from corank.serving.http.operations.access_log import AccessLog
from corank.serving.http.process.connections import POOL, ConnectionPool
from corank.serving.http.process.drain import Drain
from corank.serving.http.process.worker_process import RestartCounts
from corank.serving.http.prometheus import ServiceMetrics
from corank.serving.http.serve_settings import Limits
from corank.serving.http.service_status import ServiceStatus
from corank.serving.http.transport.body import BodyReader
from corank.serving.http.transport.routes import Observer, Routes
from corank.serving.log.log_writing import writing
from corank.serving.log.role_logs import RoleLogs

if TYPE_CHECKING:
    from corank.serving.http.operations.tracing import RequestTracer

GAUGES_SECONDS = 1.0
"""Time between two updates of the gauges."""


class RankingService:
    """HTTP endpoints of one worker process."""

    def __init__(
        self,
        follower: Follower,
        limits: Limits,
        access: AccessControl | None = None,
        users: UserLookup | None = None,
        request_log: RoleLogs | None = None,
        drain: Drain | None = None,
        restarts: RestartCounts | None = None,
        access_log: AccessLog | None = None,
        tracer: "RequestTracer | None" = None,
    ) -> None:
        """
        Args:
            follower: holds the live funnel.
            limits: of bodies and of the queue.
            access: who may call; without it nobody may write.
            users: looks columns of users up.
            request_log: where served requests are logged.
            drain: begins when the process is asked to end.
            restarts: of the workers of the service.
            access_log: has a line for each request.
            tracer: has spans for each request.
        """
        self.follower, self.limits = follower, limits
        self._access = access or AccessControl()
        self._users, self._request_log = users, request_log
        self.drain = drain or Drain()
        self.status = ServiceStatus(follower, self.drain, users)
        self.metrics = ServiceMetrics(self.status, restarts)
        self._access_log, self._tracer = access_log, tracer
        bodies = BodyReader(limits)
        self.ranking = RankEndpoints(follower, limits, bodies, self.metrics, users, request_log)
        self._changes = ChangeEndpoints(follower, bodies)
        self._state = StateEndpoints(follower, self.status, self.metrics, limits.body)

    def app(self) -> Routes:
        """The ASGI application."""
        access, changes, state = self._access, self._changes, self._state
        return Routes(
            {
                ("POST", "/rank"): guard(access, self.ranking.rank, Scope.READ),
                ("POST", "/rank/ahead"): guard(access, self.ranking.rank_ahead, Scope.READ),
                ("POST", "/rank/batch"): guard(access, self.ranking.rank_batch, Scope.READ),
                ("POST", "/items"): guard(access, changes.put_items, Scope.WRITE, "upsert"),
                ("POST", "/reload"): guard(access, changes.reload, Scope.ADMIN, "reload"),
                ("GET", "/version"): guard(access, state.get_version, Scope.READ),
                ("GET", "/item"): guard(access, state.get_item, Scope.READ),
                ("GET", "/example"): guard(access, state.get_example, Scope.READ),
                ("GET", "/status"): guard(access, state.get_status, Scope.READ),
                ("GET", "/metrics"): guard(access, state.get_metrics, Scope.READ),
                ("GET", "/healthz"): guard(access, state.get_health),
                ("GET", "/readyz"): guard(access, state.get_readiness),
                ("GET", "/openapi.json"): guard(access, state.get_openapi),
                ("GET", "/"): guard(access, state.get_page),
            },
            self._lifespan,
            self._observers(),
        )

    def _observers(self) -> list[Observer]:
        """The observers of each request; the trace before the log line that names it."""
        observers: list[Observer] = [self.metrics.count_request]
        if self._tracer is not None:
            observers.append(self._tracer.observe)
        if self._access_log is not None:
            observers.append(self._access_log.observe)
        return observers

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[dict[str, Any]]:
        self.follower.start()
        if self._users is not None:
            await asyncio.to_thread(self._users.start)
        if self._access_log is not None:
            self._access_log.start(self.follower.report, self.metrics.count_access_log_dropped)
        beside = [asyncio.create_task(self._update_gauges())]
        if self.ranking.shadow is not None:
            beside.append(asyncio.create_task(self.ranking.shadow.run()))
        gc.freeze()  # a million ids in dicts need not be visited by every collection
        async with writing(self._request_log, self.follower.report, self.metrics.count_logged):
            yield {POOL: ConnectionPool(self.limits, self.metrics.count_cut_off)}
        for task in beside:
            task.cancel()
        await asyncio.to_thread(self.follower.stop)
        if self._users is not None:
            await asyncio.to_thread(self._users.close)
        for closed in (self._tracer, self._access_log):
            if closed is not None:
                await asyncio.to_thread(closed.close)

    async def _update_gauges(self) -> None:
        while True:
            await asyncio.sleep(GAUGES_SECONDS)
            self.metrics.update_gauges()

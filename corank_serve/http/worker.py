"""One worker process: it holds a funnel, follows its source, and answers requests.

Its parts are opened by the settings; `RankingService` has its endpoints and background tasks.
"""

import asyncio
import faulthandler
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from corank.bundle.signatures import TrustedKeys
from corank.core.errors import CorankError
from corank.core.objects import parse_location
from corank.core.reports import Report
from corank_serve.http.access_control import AccessControl, OriginPolicy, guard
from corank_serve.http.access_log import AccessLog, AuditLog
from corank_serve.http.asgi import Routes
from corank_serve.http.body import BodyReader
from corank_serve.http.connections import POOL, BoundedProtocol, ConnectionPool
from corank_serve.http.exploration import Explorer
from corank_serve.http.follower import Follower, ServiceStatus
from corank_serve.http.process.draining import DrainingServer
from corank_serve.http.process.worker_process import Drain, RestartCounts, SharedState, handle_signals
from corank_serve.http.prometheus import ServiceMetrics
from corank_serve.http.ranking import RankEndpoints
from corank_serve.http.serve_settings import Limits, ServeSettings
from corank_serve.http.startup import describe_address, describe_trust, open_tracer, tls_factory
from corank_serve.http.state import ChangeEndpoints, StateEndpoints
from corank_serve.http.tokens import Scope, Token, Tokens
from corank_serve.http.user_lookup import UserLookup
from corank_serve.log.request_log import RequestLog, writing
from corank_serve.store.base import is_store, open_store
from corank_serve.store.fetch import fetch_in_subprocess
from corank_serve.store.source import BundleSource, PinnedSource, SharedLoading, Source, StoreSource

if TYPE_CHECKING:
    from corank_serve.http.tracing import RequestTracer


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
        request_log: RequestLog | None = None,
        drain: Drain | None = None,
        restarts: RestartCounts | None = None,
        access_log: AccessLog | None = None,
        tracer: "RequestTracer | None" = None,
        explorer: Explorer | None = None,
    ) -> None:
        """
        Args:
            follower: holds the live funnel.
            limits: of bodies and of the queue.
            access: who may call; without it nobody may write.
            users: looks columns of users up.
            request_log: where served requests are logged; None: nowhere.
            drain: begins when the process is asked to end.
            restarts: of the workers of the service.
            access_log: has a line for each request.
            tracer: has spans for each request.
            explorer: draws the pages of some requests.
        """
        self.follower, self.limits = follower, limits
        self._access = access or AccessControl()
        self._users, self._request_log = users, request_log
        self.drain = drain or Drain()
        self.status = ServiceStatus(follower, self.drain, users)
        self.metrics = ServiceMetrics(self.status, restarts)
        self._access_log, self._tracer = access_log, tracer
        bodies = BodyReader(limits)
        self._pool = ConnectionPool(limits, partial(self.metrics.count, "connections_cut"))
        self.ranking = RankEndpoints(
            follower, limits, self._pool, bodies, self.metrics, users, request_log, explorer
        )
        self._changes = ChangeEndpoints(follower, bodies)
        self._state = StateEndpoints(follower, self.status, self.metrics, limits.body)

    def app(self) -> Routes:
        """The ASGI application."""
        access, changes, state = self._access, self._changes, self._state
        # the trace before the log line that names it
        logs = [one.observe for one in (self._tracer, self._access_log) if one is not None]
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
            [self.metrics.count_request, *logs],
        )

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[dict[str, Any]]:
        self.follower.start()
        if self._users is not None:
            await asyncio.to_thread(self._users.start)
        if self._access_log is not None:
            self._access_log.start(
                self.follower.report, lambda lines: self.metrics.count("access_log_dropped", number=lines)
            )
        gauges = asyncio.create_task(self._update_gauges())
        gc.freeze()  # a million ids in dicts need not be visited by every collection
        async with writing(self._request_log, self.follower.report, self.metrics.count_logged):
            yield {POOL: self._pool}
        gauges.cancel()
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


def open_source(
    settings: ServeSettings, loading: SharedLoading | None = None, report: Report = lambda line: None
) -> Source:
    """Open the store or bundle to serve; a store is reached when it is read. Raises TrustError."""
    trust = TrustedKeys.load(settings.trust)
    if is_store(settings.source):
        prefetch = partial(fetch_in_subprocess, settings.source, settings.cache)
        how = settings.source, settings.cache, prefetch, trust, loading, report
        return StoreSource(*how) if settings.version is None else PinnedSource(settings.version, *how)
    return BundleSource(parse_location(settings.source), trust, loading)


TOKEN = "CORANK_TOKEN"
"""Environment variable: a token of the scope admin."""
SWITCH_INTERVAL = 0.0001
"""Seconds after which a thread that follows the source yields to the thread that ranks."""


def serve_worker(
    settings: ServeSettings,
    listeners: Sequence[socket.socket],
    report: Report,
    on_alive: Callable[[], None] | None = None,
    shared: SharedState | None = None,
) -> None:
    """Serve with this process, until it is asked to end. A process without a parent then continues.

    Args:
        settings: how.
        listeners: bound sockets.
        report: receives changes and errors.
        on_alive: as for `DrainingServer`.
        shared: among the workers of a service; None for a process without a parent.

    Raises CorankError if there is nothing to serve.
    """
    if on_alive is not None:
        faulthandler.enable()  # of a signal that ends it, as a damaged store may, stderr says where
    drain = settings.drain
    service = create_service(settings, report, drain, shared or SharedState())
    config = uvicorn.Config(
        service.app(),
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_level="error",  # a warning for every request that is no HTTP would fill the disk
        access_log=False,
        timeout_keep_alive=settings.idle_seconds,
        server_header=False,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        ssl_context_factory=tls_factory(settings),
    )
    _listen(settings, listeners, config.backlog)
    if on_alive is None:
        report(describe_trust(settings))
        report(describe_address(settings, listeners[0]))
    server = DrainingServer(config, drain, settings.receive_seconds, on_alive)
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    if on_alive is not None:
        handle_signals(server.retire)
    try:
        server.run(sockets=[*listeners])
    finally:
        sys.setswitchinterval(before)
        if on_alive is None:
            server.let_process_live()


def _listen(settings: ServeSettings, listeners: Sequence[socket.socket], backlog: int) -> None:
    """Listen, since uvloop hides an error of that. Raises CorankError if another process does that there."""
    for one in listeners:
        try:
            one.listen(backlog)
        except OSError as error:
            address = describe_address(settings, one)
            raise CorankError(f"{address}: cannot be served: {error.strerror}") from None


def create_service(
    settings: ServeSettings, report: Report, drain: Drain, shared: SharedState
) -> RankingService:
    """Create the endpoints of a worker process, which turn unready when `drain` begins. Raises CorankError."""
    source = open_source(settings, SharedLoading(shared.proofs, shared.loading), report)
    follower = Follower(source, settings.every, report)
    users = None
    if isinstance(source, StoreSource):
        users = UserLookup(partial(open_store, settings.source), settings.store_deadline_ms / 1e3, report)
    request_log = access_log = None
    if settings.log is not None:
        request_log = RequestLog(settings.log, settings.log_share, settings.log_seconds, settings.log_keep)
    if settings.access_log is not None:
        access_log = AccessLog(settings.access_log)
    return RankingService(
        follower,
        settings.limits,
        open_access(settings, report),
        users,
        request_log,
        drain,
        shared.restarts,
        access_log,
        open_tracer() if settings.traces else None,
        Explorer.open(settings),
    )


def open_access(settings: ServeSettings, report: Report) -> AccessControl:
    """Open what says who may call. Raises ConfigError if the audit cannot be written."""
    secret = os.environ.get(TOKEN)
    fixed = [Token.of(secret, "token", "admin")] if secret else []
    return AccessControl(
        OriginPolicy([settings.host, *settings.allow_host]),
        Tokens(fixed, settings.tokens, report),
        AuditLog(settings.audit),
    )

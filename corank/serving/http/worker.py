"""One worker process: it holds a funnel, follows its source, and answers requests."""

import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn

from corank.core.types import Report
from corank.serving.http.access.audit import AuditLog
from corank.serving.http.access.control import AccessControl
from corank.serving.http.access.origin import OriginPolicy
from corank.serving.http.access.tls import HandshakeLoop
from corank.serving.http.access.tokens import Token, Tokens
from corank.serving.http.app import RankingService
from corank.serving.http.follower import Follower
from corank.serving.http.lookup.user_lookup import UserLookup
from corank.serving.http.open_source import open_source
from corank.serving.http.operations.access_log import AccessLog
from corank.serving.http.operations.rate_limit import Rate, RateLimiter
from corank.serving.http.process.connections import BoundedProtocol
from corank.serving.http.process.drain import Drain
from corank.serving.http.process.draining import DrainingServer
from corank.serving.http.process.worker_process import SharedState, handle_signals
from corank.serving.http.rollout.rollout import Rollout
from corank.serving.http.serve_settings import ServeSettings
from corank.serving.http.source import StoreSource
from corank.serving.http.startup import describe_address, describe_trust, open_tracer, tls_factory
from corank.serving.log.role_logs import RoleLogs
from corank.serving.role import LIVE
from corank.serving.store.isolation.isolated_store import open_isolated

TOKEN = "CORANK_TOKEN"
"""Environment variable: a token of the scope admin."""
SWITCH_INTERVAL = 0.0001
"""Seconds after which a thread that follows the source yields to the thread that ranks."""


def serve_worker(
    settings: ServeSettings,
    listener: socket.socket,
    report: Report,
    on_alive: Callable[[], None] | None = None,
    shared: SharedState | None = None,
) -> None:
    """Serve with this process, until it is asked to end. A process without a supervisor then continues.

    Args:
        settings: how.
        listener: a bound socket.
        report: receives changes and errors.
        on_alive: as for `DrainingServer`.
        shared: among the workers of a service; None for a process without a supervisor.

    Raises CorankError if there is nothing to serve.
    """
    drain = settings.drain
    service = create_service(settings, report, drain, shared or SharedState())
    if on_alive is None:
        report(describe_trust(settings))
        report(describe_address(settings, listener))
    config = uvicorn.Config(
        service.app(),
        loop=f"{HandshakeLoop.__module__}:{HandshakeLoop.__name__}",
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
    server, before = DrainingServer(config, drain, on_alive), sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    if on_alive is not None:
        handle_signals(server.retire)
    try:
        server.run(sockets=[listener])
    finally:
        sys.setswitchinterval(before)
        if on_alive is None:
            server.let_process_live()


def create_service(
    settings: ServeSettings, report: Report, drain: Drain, shared: SharedState
) -> RankingService:
    """Create the endpoints of a worker process, which turn unready when `drain` begins. Raises CorankError."""
    source = open_source(settings)
    rollout = Rollout.open(source, settings.canary, settings.shadow, report)
    follower = Follower(source, settings.every, report, rollout)
    users = None
    if isinstance(source, StoreSource):
        users = UserLookup(partial(open_isolated, settings.source), settings.store_deadline_ms / 1e3, report)
    log = (
        RoleLogs(settings.log, settings.log_share, settings.log_seconds, [LIVE, *rollout.roles])
        if settings.log is not None
        else None
    )
    return RankingService(
        follower,
        settings.limits,
        open_access(settings, report, shared.buckets),
        users,
        log,
        drain,
        shared.restarts,
        None if settings.access_log is None else AccessLog(settings.access_log, settings.access_log_users),
        open_tracer() if settings.traces else None,
    )


def open_access(settings: ServeSettings, report: Report, buckets: Path | None = None) -> AccessControl:
    """Open what says who may call, and how often, by `buckets` that workers share.

    Raises ConfigError if the audit cannot be written.
    """
    secret = os.environ.get(TOKEN)
    fixed = [Token.of(secret, "token", "admin")] if secret else []
    return AccessControl(
        OriginPolicy([settings.host, *settings.allow_host], settings.allow_origin),
        Tokens(fixed, settings.tokens, report),
        AuditLog(settings.audit),
        RateLimiter(buckets),
        None if settings.rate_limit is None else Rate.of(settings.rate_limit),
    )

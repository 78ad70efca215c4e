"""Starts the service: worker processes that each hold a funnel and follow one source.

The bundle of a store's live version is fetched once, into a folder that all workers of the machine map into memory.
"""

import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ctypes import c_double
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from prometheus_client.multiprocess import mark_process_dead

from corank.core.errors import CorankError
from corank.core.extras import name_missing_extra
from corank.core.registry import load_environment_plugins
from corank.core.types import Report
from corank.serving.http.access.audit import AuditLog
from corank.serving.http.access.control import AccessControl
from corank.serving.http.access.origin import OriginPolicy
from corank.serving.http.access.tls import HandshakeLoop, open_tls
from corank.serving.http.access.tokens import Token, Tokens, read_tokens
from corank.serving.http.app import RankingService
from corank.serving.http.follower import Follower
from corank.serving.http.lookup.user_lookup import UserLookup
from corank.serving.http.open_source import check_versions, describe_trust, open_source
from corank.serving.http.operations.access_log import AccessLog, check_access_log
from corank.serving.http.operations.rate_limit import Rate, RateLimiter
from corank.serving.http.process.connections import BoundedProtocol, allow_open_files
from corank.serving.http.process.draining import Drain, DrainingServer
from corank.serving.http.process.listener import bind_listener, take_inherited_listener
from corank.serving.http.process.memory import release_memory
from corank.serving.http.process.supervisor import Supervisor
from corank.serving.http.process.worker_process import SharedState, WorkerMain, handle_signals
from corank.serving.http.prometheus import MULTIPROC
from corank.serving.http.rollout.rollout import Rollout
from corank.serving.http.serve_settings import ServeSettings
from corank.serving.http.source import StoreSource, load_first
from corank.serving.log.log_files import make_folder
from corank.serving.log.role_logs import RoleLogs
from corank.serving.role import LIVE
from corank.serving.store.base import is_store
from corank.serving.store.isolation.isolated_store import open_isolated

if TYPE_CHECKING:
    from corank.serving.http.operations.tracing import RequestTracer

TOKEN = "CORANK_TOKEN"
"""Environment variable: a token of the scope admin."""
NEEDS_RESTART = ("host", "port", "workers", "drain_seconds", "stop_seconds")
"""Settings that belong to the socket and to the parent of the workers, which no renewal changes."""
SWITCH_INTERVAL = 0.0001
"""Seconds after which a thread that follows the source yields to the thread that ranks."""


def serve_here(settings: ServeSettings, report: Report) -> None:
    """Serve with this process alone until it is told to end. Raises CorankError as `run_service`."""
    with bind_listener(settings.host, settings.port) as listener:
        check_files(settings)
        check_versions(settings)
        serve_worker(settings, listener, report)


def run_service(read: Callable[[], ServeSettings], report: Report) -> None:
    """Serve with worker processes until this process is told to end.

    Args:
        read: reads the settings; called at the start, and again when the service is told to renew its workers.
        report: receives changes and errors.

    Raises CorankError if there is nothing to serve, the address is taken, or a folder cannot be written.
    """
    settings = read()
    inherited = take_inherited_listener()
    with inherited or bind_listener(settings.host, settings.port) as listener:
        check_files(settings)
        check_versions(settings)
        # fetches the bundle once for all workers, and shows mistakes at once
        with closing(open_source(settings)) as source:
            load_first(source, report)
        release_memory()
        with _sharing(settings.workers) as (shared, forget):

            def renew() -> WorkerMain:
                newer = read()
                check_files(newer)
                check_versions(newer)
                for name in NEEDS_RESTART:
                    if getattr(newer, name) != getattr(settings, name):
                        report(f"{name}: stays {getattr(settings, name)} until the service is started again")
                return partial(run_worker, newer.model_dump_json(), shared)

            main = partial(run_worker, settings.model_dump_json(), shared)
            supervisor = Supervisor(
                settings.workers, main, settings.drain, report, forget, renew, shared.restarts
            )
            report(describe_trust(settings))
            report(describe_address(settings, listener))
            supervisor.run(listener, is_own=inherited is None)


@contextmanager
def _sharing(workers: int) -> Iterator[tuple[SharedState, Callable[[int], None]]]:
    """Make what the workers share; yield it, and what forgets the metrics of a process that has ended.

    Several workers write their metrics into one folder. One keeps them in memory, which takes less time.
    """
    with tempfile.TemporaryDirectory(prefix="corank-shared-") as folder:
        shared = SharedState(buckets=Path(folder) / "buckets")
        if workers == 1:
            yield shared, lambda pid: None
        else:
            os.environ[MULTIPROC] = folder
            yield shared, lambda pid: mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


def check_files(settings: ServeSettings) -> None:
    """Raise CorankError if a file that the settings name cannot be used, or too few files may be opened."""
    _require_writable(settings)
    allow_open_files(settings.connections)
    tls_factory(settings)
    AuditLog(settings.audit)
    if settings.access_log is not None:
        check_access_log(settings.access_log)
    if settings.traces:
        open_tracer().close()
    if settings.tokens is not None:
        read_tokens(settings.tokens)


def describe_address(settings: ServeSettings, listener: socket.socket) -> str:
    """Return the URL of the service."""
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{settings.host}:{listener.getsockname()[1]}"


def run_worker(settings: str, shared: SharedState, listener: socket.socket, beat: c_double) -> None:
    """Run a worker process; the parameters are those of `WorkerMain`, after settings as JSON and what is shared."""

    def report(line: str) -> None:
        print(f"corank: {line}", file=sys.stderr, flush=True)

    def turn() -> None:
        beat.value = time.monotonic()

    load_environment_plugins()
    try:
        serve_worker(ServeSettings.model_validate_json(settings), listener, report, turn, shared)
    except CorankError as error:
        report(f"worker {os.getpid()} cannot start: {error}")
        sys.exit(1)


def serve_worker(
    settings: ServeSettings,
    listener: socket.socket,
    report: Report,
    on_alive: Callable[[], None] | None = None,
    shared: SharedState | None = None,
) -> None:
    """Serve with this process, until it is told to end. A process without a supervisor goes on then.

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
        handle_signals(server)
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


def open_tracer() -> "RequestTracer":
    """Open what makes the spans of requests. Raises CorankError if it is not installed, or its exporter not known."""
    with name_missing_extra("corank serve --traces"):
        from corank.serving.http.operations.tracing import RequestTracer, open_exporter
    return RequestTracer(open_exporter())


def _require_writable(settings: ServeSettings) -> None:
    """Raise CorankError unless files can be written into the folders of the cache and the log."""
    folders = {"--log": settings.log, "--cache": settings.cache if is_store(settings.source) else None}
    for option, folder in folders.items():
        if folder is not None:
            try:
                make_folder(folder)
                with tempfile.TemporaryFile(dir=folder) as probe:
                    probe.write(b"\0")
            except OSError as error:
                raise CorankError(f"{option}: nothing can be written to {folder}: {error}") from None


def tls_factory(settings: ServeSettings) -> Callable[..., ssl.SSLContext] | None:
    """Open the certificate, and return what hands it to uvicorn; None for plain HTTP. Raises ConfigError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = open_tls(settings.tls_cert, settings.tls_key)
    return lambda *_: context


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

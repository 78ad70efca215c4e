"""Starts the service: a parent, gunicorn's arbiter, and workers, which each hold a funnel and follow one source.

The first worker fetches the bundle of a store's live version into a folder that all workers of the machine map into
memory; the others start when it serves.
"""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from corank.core.errors import CorankError
from corank.core.registry import load_environment_plugins
from corank.core.reports import Report
from corank_serve.http.process.arbiter import ServiceArbiter
from corank_serve.http.process.listener import bind_listener
from corank_serve.http.process.worker_process import MULTIPROC, SharedState, WorkerMain, WorkerSigns
from corank_serve.http.serve_settings import ServeSettings
from corank_serve.http.startup import check_files, describe_address, describe_trust

NEEDS_RESTART = ("host", "port", "workers", "drain_seconds", "stop_seconds")
"""Settings that belong to the socket and to the parent of the workers, which no renewal changes."""


def serve_here(settings: ServeSettings, report: Report) -> None:
    """Serve with this process alone until it is asked to end. Raises CorankError as `run_service`."""
    from corank_serve.http.worker import serve_worker

    with bind_listener(settings.host, settings.port) as listener:
        check_files(settings)
        serve_worker(settings, [listener], report)


def run_service(read: Callable[[], ServeSettings], report: Report) -> None:
    """Serve with worker processes until this process is asked to end.

    Args:
        read: reads the settings; called at the start, and again when the service renews its workers.
        report: receives changes and errors.

    Raises CorankError if there is nothing to serve, the address is taken, or a folder cannot be written.
    """
    settings = read()
    inherits = os.environ.get("LISTEN_PID") == str(os.getpid())  # sockets of systemd
    with nullcontext() if inherits else bind_listener(settings.host, settings.port) as listener:
        check_files(settings)
        with _sharing(settings.workers) as (shared, forget):

            def renew() -> WorkerMain:
                newer = read()
                check_files(newer)
                for name in NEEDS_RESTART:
                    if getattr(newer, name) != getattr(settings, name):
                        report(f"{name}: stays {getattr(settings, name)} until the service is started again")
                return partial(run_worker, newer.model_dump_json(), shared)

            def tell_address(listeners: Sequence[socket.socket]) -> None:
                report(describe_trust(settings))
                for one in listeners:
                    report(describe_address(settings, one))

            main = partial(run_worker, settings.model_dump_json(), shared)
            arbiter = ServiceArbiter(
                settings.workers, main, settings.drain, report, forget, renew, shared.restarts, tell_address
            )
            arbiter.serve(listener)


@contextmanager
def _sharing(workers: int) -> Iterator[tuple[SharedState, Callable[[int], None]]]:
    """Make what the workers share; yield it, and what forgets the metrics of a process that has ended.

    Several workers write their metrics into one folder. One keeps them in memory, which takes less time.
    """

    def forget(pid: int) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]

    before = os.environ.pop(MULTIPROC, None)  # not a folder of this service
    with tempfile.TemporaryDirectory(prefix="corank-shared-") as folder:
        shared = SharedState(loading=Path(folder) / "loading")
        try:
            if workers == 1:
                yield shared, lambda pid: None
            else:
                os.environ[MULTIPROC] = folder
                yield shared, forget
        finally:
            os.environ.pop(MULTIPROC, None)
            if before is not None:
                os.environ[MULTIPROC] = before


def run_worker(
    settings: str, shared: SharedState, listeners: Sequence[socket.socket], signs: WorkerSigns
) -> None:
    """Run a worker process; the parameters are those of `WorkerMain`, after settings as JSON and what is shared."""
    from corank.bundle.graph_files import flush_process_subnormals
    from corank_serve.http.worker import serve_worker

    def report(line: str) -> None:
        print(f"corank: {line}", file=sys.stderr, flush=True)

    flush_process_subnormals()
    load_environment_plugins()
    try:
        serve_worker(ServeSettings.model_validate_json(settings), listeners, report, signs.beat, shared)
    except (CorankError, OSError) as error:
        signs.fail(str(error))
        sys.exit(1)

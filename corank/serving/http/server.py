"""Starts the service: worker processes that each hold a funnel and follow one source.

The bundle of a store's live version is fetched once, into a folder that all workers of the machine map into memory.
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import joblib
import uvicorn
from starlette.applications import Starlette

from corank.core.errors import CorankError
from corank.core.registry import load_environment_plugins
from corank.core.types import Report
from corank.serving.http.app import RankingService
from corank.serving.http.follower import BundleSource, Follower, Source, StoreSource
from corank.serving.http.prometheus import MULTIPROC
from corank.serving.http.request_log import RequestLog
from corank.serving.http.serve_settings import ServeSettings
from corank.serving.store.base import is_store, open_store
from corank.serving.store.fetch_process import fetch_in_subprocess
from corank.serving.store.users import UserStore

SERVING, TOKEN = "CORANK_SERVING", "CORANK_TOKEN"
"""Environment variables: the settings for the workers, and the token that writers must send."""
SWITCH_INTERVAL = 0.0001
"""Seconds after which a thread that follows the source yields to the thread that ranks."""


def run_service(settings: ServeSettings, report: Report) -> None:
    """Serve until the process is stopped. Raises CorankError if there is nothing to serve, or the port is taken."""
    source = open_source(settings)
    source.load_newer(None)  # fetches the bundle once for all workers, and shows mistakes at once
    os.environ[SERVING] = settings.model_dump_json()
    with tempfile.TemporaryDirectory(prefix="corank-metrics-") as metrics:
        if settings.workers > 1:
            os.environ[MULTIPROC] = metrics
        report(f"http://{settings.host}:{settings.port}")
        try:
            uvicorn.run(
                "corank.serving.http.server:create_app",
                factory=True,
                host=settings.host,
                port=settings.port,
                workers=settings.workers,
                loop="uvloop",
                http="httptools",
                log_level="warning",
                access_log=False,
            )
        except SystemExit as stopped:
            if stopped.code:
                raise CorankError(f"{settings.host}:{settings.port}: cannot be served; see above") from None


def count_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its container's quota."""
    return int(joblib.cpu_count())


def open_source(settings: ServeSettings) -> Source:
    """Open the store or bundle to serve. Raises StoreError, BundleError."""
    if is_store(settings.source):
        prefetch = partial(fetch_in_subprocess, settings.source, settings.cache)
        return StoreSource(open_store(settings.source), settings.cache, prefetch)
    return BundleSource(Path(settings.source))


def create_app() -> Starlette:
    """Create the application of one worker process, with the plug-ins and settings of the environment."""
    load_environment_plugins()
    settings = ServeSettings.model_validate_json(os.environ[SERVING])
    sys.setswitchinterval(SWITCH_INTERVAL)
    source = open_source(settings)
    follower = Follower(
        source, settings.every, lambda line: print(f"corank: {line}", file=sys.stderr, flush=True)
    )
    users = UserStore(source.store) if isinstance(source, StoreSource) else None
    log = RequestLog(settings.log, settings.log_share) if settings.log is not None else None
    return RankingService(follower, settings.limits, os.environ.get(TOKEN) or None, users, log).app()

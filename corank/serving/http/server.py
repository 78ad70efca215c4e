"""Starts the service: workers that each hold a funnel and follow one source.

The bundle of a store's live version is fetched once, into a folder that all workers of the machine map into memory.
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import joblib
import uvicorn
from pydantic import Field, PositiveInt
from starlette.applications import Starlette

from corank.core.errors import CorankError
from corank.core.registry import load_environment_plugins
from corank.core.settings import Settings
from corank.core.types import Report
from corank.serving.http.app import Limits, Service
from corank.serving.http.follower import BundleSource, Follower, Source, StoreSource
from corank.serving.http.prometheus import MULTIPROC
from corank.serving.http.request_log import RequestLog
from corank.serving.store.base import is_store, open_store
from corank.serving.store.fetch_process import fetch_in_subprocess
from corank.serving.store.users import UserStore

SERVING, TOKEN = "CORANK_SERVING", "CORANK_TOKEN"
"""Of the environment: how workers are told of the settings, and of the token of who writes."""
SWITCH = 0.0001
"""Seconds after which a thread that follows the source lets requests go on."""


class ServeSettings(Settings):
    """How to serve."""

    source: str
    """A store's address, or a bundle's folder."""
    cache: Path
    """Where the bundles of a store are kept."""
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: PositiveInt = 1
    every: float = Field(1.0, gt=0)
    """Seconds between two looks at the source."""
    log: Path | None = None
    """Where served requests are logged, if they are."""
    log_share: float = Field(1.0, gt=0, le=1)
    """Of requests."""
    queue: PositiveInt = 64
    """Requests that may wait, of each worker."""
    body_mib: float = Field(4.0, gt=0)
    """Largest body, MiB."""


def serve(settings: ServeSettings, report: Report) -> None:
    """Serve until told to stop. Raises CorankError where there is nothing to serve, or the port is taken."""
    source = opened(settings)
    source.newer(None)  # fetched once, before there are workers, and a mistake is told at once
    os.environ[SERVING] = settings.model_dump_json()
    with tempfile.TemporaryDirectory(prefix="corank-metrics-") as metrics:
        if settings.workers > 1:
            os.environ[MULTIPROC] = metrics
        report(f"http://{settings.host}:{settings.port}")
        try:
            uvicorn.run(
                "corank.serving.http.server:worker",
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


def cores() -> int:
    """Those that this process may use, as its affinity and its container's quota have it."""
    return int(joblib.cpu_count())


def opened(settings: ServeSettings) -> Source:
    """Raises StoreError, BundleError."""
    if is_store(settings.source):
        aside = partial(fetch_in_subprocess, settings.source, settings.cache)
        return StoreSource(open_store(settings.source), settings.cache, aside)
    return BundleSource(Path(settings.source))


def worker() -> Starlette:
    """The app of one worker process, with the plug-ins of the environment."""
    load_environment_plugins()
    settings = ServeSettings.model_validate_json(os.environ[SERVING])
    sys.setswitchinterval(SWITCH)
    source = opened(settings)
    follower = Follower(
        source, settings.every, lambda line: print(f"corank: {line}", file=sys.stderr, flush=True)
    )
    users = UserStore(source.store) if isinstance(source, StoreSource) else None
    limits = Limits(settings.queue, round(settings.body_mib * 2**20))
    served = RequestLog(settings.log, settings.log_share) if settings.log is not None else None
    return Service(follower, limits, os.environ.get(TOKEN) or None, users, served).app()

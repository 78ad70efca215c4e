"""The settings of `corank serve`, and the limits of a worker that follow from them."""

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from corank.bundle.signatures import is_content_name
from corank.core.objects import require_local
from corank.core.settings import Duration, Settings
from corank.engine.cores import count_cores
from corank_serve.http.process.worker_process import Drain
from corank_serve.log.settings import MAX_SECONDS
from corank_serve.store.base import CACHE

PERCENT = re.compile(r"([0-9]*\.?[0-9]+)%")


def _read_share(value: Any) -> Any:
    """A share, which may be written `2%`."""
    match = PERCENT.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else value


def _refuse_url(value: Any) -> Any:
    return str(require_local(value)) if isinstance(value, str) else value


LocalPath = Annotated[Path, BeforeValidator(_refuse_url)]
"""A path of this machine; StorageError for a URL."""


class ExploreSettings(Settings):
    """Requests whose page is drawn.

    Example:
        {share: 2%, draw: softened, temperature: 0.05, exclude: [checkout]}
    """

    share: Annotated[float, BeforeValidator(_read_share), Field(gt=0, le=1)]
    """Of the requests, such as 2%."""
    draw: Literal["uniform", "softened"] = "uniform"
    """`uniform`: from all candidates; `softened`: from those that the last stage scored, at weights exp(value /
    temperature), one after the other."""
    temperature: Annotated[float, Field(ge=1e-12, le=1e12)] | None = None
    """Of `softened`, in units of the last stage's value."""
    exclude: tuple[str, ...] = ()
    """Names of tokens whose requests are never drawn."""
    secret: LocalPath | None = None
    """File of the secret by which pages are drawn; `explore-secret` in `cache` unless given, made if it is missing."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.draw == "softened") != (self.temperature is not None):
            lacks = "draw: softened needs a temperature, such as a tenth of a usual value of the last stage"
            raise ValueError(lacks if self.temperature is None else "temperature goes with draw: softened")
        return self


def _read_explore(value: Any) -> Any:
    """The share alone, as `2%`, or all settings."""
    is_share = isinstance(value, str | int | float) and not isinstance(value, bool)
    return {"share": value} if is_share else value


@dataclass(frozen=True)
class Limits:
    """Limits of a service, per worker."""

    queue: int = 64
    """Requests that may wait."""
    body: int = 4 << 20
    """Largest body, bytes."""
    bodies: int = 64 << 20
    """Bodies that are received or wait, in all, bytes."""
    seconds: float = 10.0
    """Time in which a request must arrive."""
    connections: int = 1000
    """Open connections."""
    clock_skew: timedelta | None = None
    """How far a request's time may be from now; None for any."""


class ServeSettings(Settings, use_attribute_docstrings=True):
    """How to serve: the options of `corank serve`, whose help are the lines below its fields."""

    source: str
    """URL of a store, or folder of a bundle, or of a run."""
    cache: LocalPath = CACHE
    """Folder for the bundles of a store."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all interfaces."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 for any that is free."""
    workers: PositiveInt = Field(default_factory=count_cores)
    """Worker processes; one a core unless given."""
    every: float = Field(1.0, gt=0)
    """Seconds between two checks of the source."""
    version: str | None = None
    """The version of the store to serve, whichever is live."""
    explore: Annotated[ExploreSettings | None, BeforeValidator(_read_explore)] = None
    """Share of the requests whose page is drawn, such as 2%; in a file also `{share, draw, temperature, …}`.
    Experimental."""
    log: LocalPath | None = None
    """Folder for the log of served requests; None for no log."""
    log_share: float = Field(1.0, gt=0, le=1)
    """Share of requests that are logged."""
    log_seconds: float = Field(MAX_SECONDS, gt=0)
    """Time after which a file of the log is completed; a process that is killed loses it."""
    log_keep: Duration | None = None
    """How long files of the log are kept, such as 30d; None for ever."""
    max_clock_skew: Duration = timedelta(days=1)
    """How far a request's `time` may be from now."""
    queue: PositiveInt = 64
    """Requests that may wait, per worker."""
    body_mib: float = Field(4.0, gt=0)
    """Largest body, MiB."""
    bodies_mib: float = Field(64.0, gt=0)
    """Bodies that are received or wait, in all, MiB per worker."""
    connections: PositiveInt = 1000
    """Open connections, per worker."""
    receive_seconds: float = Field(10.0, gt=0)
    """Time in which a request must arrive, its head and its body together."""
    idle_seconds: PositiveInt = 75
    """Time after which a connection without a request is closed."""
    allow_host: tuple[str, ...] = ()
    """Names by which clients may call the service."""
    forwarded_allow_ips: str = ""
    """Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, with commas."""
    tokens: LocalPath | None = None
    """File of the clients' tokens."""
    audit: LocalPath | None = None
    """File of audit lines; None for stderr."""
    access_log: LocalPath | None = None
    """File of a JSON line about each request; `-` for stdout, None for none."""
    traces: bool = False
    """Whether OpenTelemetry traces are sent, as the variables OTEL_* say."""
    trust: tuple[LocalPath, ...] = ()
    """Files of public keys, one of which must have signed what is served; none: it need not be signed."""
    store_deadline_ms: float = Field(100.0, gt=0)
    """Longest time that a request waits for its user's columns."""
    drain_seconds: float = Field(2.0, ge=0)
    """Time after SIGTERM in which requests go on, while /readyz is 503."""
    stop_seconds: float = Field(10.0, ge=0)
    """Time after that in which what has begun is answered."""
    tls_cert: LocalPath | None = None
    """PEM file of the certificate and its chain."""
    tls_key: LocalPath | None = None
    """PEM file of the certificate's private key."""

    @field_validator("version")
    @classmethod
    def _check_version(cls, version: str | None) -> str | None:
        if version is not None and not is_content_name(version):
            raise ValueError(f"expected a version as `corank store ls` names it; received {version!r}")
        return version

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.bodies_mib < self.body_mib:
            raise ValueError(
                "a body of --body-mib must fit in --bodies-mib; raise the one or lower the other"
            )
        if self.log_keep is not None and self.log is None:
            raise ValueError("--log-keep without --log keeps nothing; add --log FOLDER, or leave it out")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS needs both --tls-cert and --tls-key")
        return self

    @property
    def limits(self) -> Limits:
        """Limits of a worker."""
        return Limits(
            self.queue,
            round(self.body_mib * 2**20),
            round(self.bodies_mib * 2**20),
            self.receive_seconds,
            self.connections,
            self.max_clock_skew,
        )

    @property
    def drain(self) -> Drain:
        """How a worker ends."""
        return Drain(self.drain_seconds, self.stop_seconds)

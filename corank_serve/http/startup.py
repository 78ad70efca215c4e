"""What a service checks and says before it serves. Few imports, since the parent of worker processes needs no more."""

import socket
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from corank.bundle.signatures import TrustedKeys
from corank.core.errors import ConfigError, CorankError
from corank.core.files import make_private_folder
from corank.core.lazy import name_missing_extra
from corank_serve.http.access_log import AuditLog, require_writable
from corank_serve.http.explore_secret import read_secret
from corank_serve.http.process.listener import allow_open_files
from corank_serve.http.serve_settings import ServeSettings
from corank_serve.http.tokens import read_tokens
from corank_serve.store.base import hide_password, is_store

if TYPE_CHECKING:
    from corank_serve.http.tracing import RequestTracer


def check_files(settings: ServeSettings) -> None:
    """Raise CorankError if a file that the settings name cannot be used, or too few files may be opened."""
    if settings.version is not None and not is_store(settings.source):
        raise ConfigError(
            f"--version: {settings.source} is a bundle, and has one version; leave the option out, or `corank publish` "
            "the bundle, and serve the store"
        )
    _require_writable(settings)
    allow_open_files(settings.connections)
    tls_factory(settings)
    AuditLog(settings.audit)
    if settings.access_log is not None:
        require_writable(settings.access_log, "--access-log")
    if settings.traces:
        open_tracer().close()
    if settings.tokens is not None:
        read_tokens(settings.tokens)
    TrustedKeys.load(settings.trust)
    if settings.explore is not None:
        read_secret(settings, settings.explore)


def _require_writable(settings: ServeSettings) -> None:
    """Raise CorankError unless files can be written into the folders of the cache and the log."""
    folders = {"--log": settings.log, "--cache": settings.cache if is_store(settings.source) else None}
    for option, folder in folders.items():
        if folder is not None:
            try:
                make_private_folder(folder)
                with tempfile.TemporaryFile(dir=folder) as probe:
                    probe.write(b"\0")
            except OSError as error:
                raise CorankError(f"{option}: nothing can be written to {folder}: {error}") from None


def describe_trust(settings: ServeSettings) -> str:
    """Say whose versions are served. Raises TrustError if a key cannot be read."""
    keys = TrustedKeys.load(settings.trust)
    if keys is not None:
        return f"trust: versions signed by {keys}; items that are upserted into a store are not taken"
    source = hide_password(settings.source)
    return f"trust: whoever can write to {source}; --trust PUBLIC_KEY takes signed versions only"


def describe_address(settings: ServeSettings, listener: socket.socket) -> str:
    """Return the URL of the service; of a Unix socket, which it may inherit, the path."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{settings.host}:{listener.getsockname()[1]}"


def tls_factory(settings: ServeSettings) -> Callable[..., ssl.SSLContext] | None:
    """Open the certificate, and return what hands it to uvicorn; None for plain HTTP. Raises ConfigError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = _open_tls(settings.tls_cert, settings.tls_key)
    return lambda *_: context


def _open_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """Read a certificate with its chain, and its private key. TLS 1.2 is the oldest version that is spoken.

    Raises ConfigError, which names the file that cannot be used.
    """
    for path in (certificate, key):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if b"ENCRYPTED" in content:
        raise ConfigError(
            f"{key}: is encrypted; write it without a passphrase, readable by the service alone"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password="")  # else it would be asked for
    except ssl.SSLError as error:
        raise ConfigError(
            f"{certificate} and {key}: are not a certificate and its private key in PEM: {error.reason or error}"
        ) from None
    return context


def open_tracer() -> "RequestTracer":
    """Open what makes the spans of requests. Raises CorankError if it is not installed, or its exporter not known."""
    with name_missing_extra("corank serve --traces"):
        from corank_serve.http.tracing import RequestTracer, open_exporter
    return RequestTracer(open_exporter())

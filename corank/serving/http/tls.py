"""TLS of a service, by the names of two PEM files."""

import ssl
from pathlib import Path
from typing import Any

import uvloop

from corank.core.errors import ConfigError

HANDSHAKE_SECONDS = 10.0
"""Time for a handshake, which comes before the limits of connections apply; uvloop allows a minute."""


def open_tls(certificate: Path, key: Path) -> ssl.SSLContext:
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


class HandshakeLoop(uvloop.Loop):
    """An event loop that bounds the time of TLS handshakes, which uvicorn has no setting for."""

    async def create_server(self, *args: Any, **options: Any) -> Any:
        """As uvloop's."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        return await super().create_server(*args, **options)

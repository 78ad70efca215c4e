"""By which names the service may be called, and from which pages.

A web page may send requests to any address that its reader's browser reaches. Two checks keep it out. `Host` must be a
name of the service: under DNS rebinding it is the attacker's. `Origin` and `Sec-Fetch-Site` must not name another site.
An IP address as `Host` is always accepted, since rebinding needs a name.
"""

import ipaddress
import socket
from collections.abc import Iterable

from corank.serving.http.transport.call import HttpCall
from corank.serving.http.transport.reply import RefusedError


class OriginPolicy:
    """The names and pages of a service."""

    def __init__(self, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        """
        Args:
            hosts: names of the service, in addition to IP addresses, localhost and the machine's own name.
            origins: of pages that may call it, in addition to its own: scheme, name and port.
        """
        self._hosts = {name.lower().rstrip(".") for name in ("localhost", socket.gethostname(), *hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    def check(self, call: HttpCall) -> None:
        """Raise RefusedError for a request to another name, or from a page of another site."""
        host_header, count = call.header(b"host"), call.count(b"host")
        if count > 1 or (host_header is None and call.scope["http_version"] != "1.0"):
            raise RefusedError(400, "expected one header Host")
        host = (host_header or "").lower()  # none by HTTP/1.0, which no browser speaks
        if host_header is not None and not self._is_own(host):
            raise RefusedError(
                403, f"this service is not called {host!r}; start it with --allow-host {split_port(host)}"
            )
        origin = call.header(b"origin")
        if origin is None:
            if call.header(b"sec-fetch-site") not in (None, "none", "same-origin"):
                raise RefusedError(403, "the request comes from a page of another site")
        elif origin.lower() not in self._origins and origin.lower().partition("://")[2] != host:
            raise RefusedError(
                403, f"pages of {origin!r} may not call this service; start it with --allow-origin {origin}"
            )

    def _is_own(self, host: str) -> bool:
        name = split_port(host)
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def split_port(host: str) -> str:
    """Return the name of a `Host` header without its port and a final dot.

    Example:
        >>> split_port("[::1]:8000"), split_port("rank.example.:443")
        ('[::1]', 'rank.example')
    """
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).rstrip(".")

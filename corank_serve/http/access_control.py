"""What guards a handler: access is checked before, errors become replies in JSON, writes are recorded after.

A request must pass the checks of names and pages, then of its token. A web page may send requests to any address that
its reader's browser reaches. Two checks keep it out. `Host` must be a name of the service: under DNS rebinding it is
the attacker's. `Origin` and `Sec-Fetch-Site` must not name another site. An IP address as `Host` is always accepted,
since rebinding needs a name.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from corank.core.errors import RequestError
from corank_serve.http.access_log import AuditLog
from corank_serve.http.asgi import (
    LONGEST_ERROR,
    DisconnectedError,
    Handler,
    HttpCall,
    HttpReply,
    RefusedError,
    shorten_error,
)
from corank_serve.http.body import answer_to
from corank_serve.http.tokens import Scope, Tokens


class OriginPolicy:
    """The names and pages of a service."""

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        """`hosts` are names of the service, in addition to IP addresses, localhost and the machine's own name."""
        self._hosts = {name.lower().rstrip(".") for name in ("localhost", socket.gethostname(), *hosts)}

    def check(self, call: HttpCall) -> None:
        """Raise RefusedError for a request to another name, or from a page of another site."""
        host_header = call.headers.get("host")
        if sum(name == b"host" for name, _ in call.scope["headers"]) > 1 or (
            host_header is None and call.scope["http_version"] != "1.0"
        ):
            raise RefusedError(400, "expected one header Host")
        host = (host_header or "").lower()  # none by HTTP/1.0, which no browser speaks
        if host_header is not None and not self._is_own(host):
            raise RefusedError(
                403, f"this service is not called {host!r}; start it with --allow-host {split_port(host)}"
            )
        origin = call.headers.get("origin")
        if origin is None:
            if call.headers.get("sec-fetch-site") not in (None, "none", "same-origin"):
                raise RefusedError(403, "the request comes from a page of another site")
        elif origin.lower().partition("://")[2] != host:
            raise RefusedError(
                403,
                f"pages of {origin!r} may not call this service; a proxy before it passes the header Host on",
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


BEARER = "Bearer "


@dataclass(frozen=True)
class AccessControl:
    """Who may call a service, and the audit of those who do."""

    origin: OriginPolicy = field(default_factory=OriginPolicy)
    tokens: Tokens = field(default_factory=Tokens)
    audit: AuditLog = field(default_factory=AuditLog)

    def authorize(self, call: HttpCall, needs: Scope) -> None:
        """Raise RefusedError unless a request may do what it needs. Sets `call.caller` to its token's name.

        To read, a token is needed once one of the scope `read` exists.
        """
        self.origin.check(call)
        credentials = call.headers.get("authorization", "")
        token = self.tokens.find(credentials.removeprefix(BEARER)) if credentials.startswith(BEARER) else None
        if token is not None:
            call.caller = token.name
            if token.allows < needs:
                raise RefusedError(
                    403, f"the token {token.name} is of scope {token.scope}; this needs {needs.name.lower()}"
                )
            return
        known = self.tokens.all()
        if known is not None:
            scopes = {one.allows for one in known}
            if needs is Scope.READ and Scope.READ not in scopes:
                return
            if max(scopes, default=Scope.READ) < needs:
                raise RefusedError(403, "nobody may write: the service was started without a token for it")
        raise RefusedError(
            401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )


def guard(
    access: AccessControl, handler: Handler, needs: Scope | None = None, action: str | None = None
) -> Handler:
    """Wrap a handler.

    Args:
        access: who may call.
        handler: of the request; it may leave `change`, facts for the audit, in the request.
        needs: what a client must be allowed to do; None for what tells nothing of the data, which is open to all.
        action: name of what the audit records; None for what it does not.
    """

    async def handle(call: HttpCall) -> HttpReply:
        error = None
        try:
            if needs is not None:
                access.authorize(call, needs)
            reply = await handler(call)
        except RefusedError as refused:
            error, call.why = refused.error, refused.why
            reply = answer_to(call, {"error": shorten_error(error)}, refused.status, refused.headers)
        except RequestError as wrong:
            error = str(wrong)
            reply = answer_to(call, {"error": shorten_error(error)}, 400)
        except DisconnectedError:
            error, reply = "disconnected", HttpReply(status=400)  # nobody reads it
        if action is not None:
            facts = {"by": call.caller, "client": call.client} | call.change
            if error is not None:
                facts["error"] = error[:LONGEST_ERROR]
            await asyncio.to_thread(access.audit.record, action, reply.status, **facts)
        return reply

    return handle

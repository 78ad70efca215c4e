"""A request to the service, read from what an ASGI server hands over."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from corank.serving.funnel.ranking_result import RankingResult

AsgiMessage = MutableMapping[str, Any]
AsgiScope = MutableMapping[str, Any]
"""The facts of a connection or a request, which the server hands over."""
AsgiReceive = Callable[[], Awaitable[AsgiMessage]]
AsgiSend = Callable[[AsgiMessage], Awaitable[None]]

NOBODY = "nobody"
"""Who calls without a token."""


class DisconnectedError(Exception):
    """The client has gone before its body had come."""


def _charge_nothing(count: int) -> None:
    """Count requests of which any number may come."""


class HttpCall:
    """A request: its head, and its body as it comes."""

    __slots__ = (
        "_headers",
        "_more",
        "_receive",
        "caller",
        "change",
        "charge",
        "id",
        "ranked",
        "scope",
        "trace",
        "why",
    )

    def __init__(self, scope: AsgiScope, receive: AsgiReceive) -> None:
        """
        Args:
            scope: of the request, from the server.
            receive: waits for a part of its body.
        """
        self.scope, self._receive = scope, receive
        self._headers: dict[bytes, bytes] | None = None
        self._more = True
        self.caller = NOBODY
        """The name of the token that it came with."""
        self.change: dict[str, Any] = {}
        """Facts for the audit, of one that writes."""
        self.charge: Callable[[int], None] = _charge_nothing
        """Counts so many requests more against the rate of its token; raises RefusedError if they are too many."""
        self.why: str | None = None
        """Why it was refused for a limit: queue, bodies or rate."""
        self.ranked: list[tuple[RankingResult, float, str]] = []
        """What it had ranked, when each was done, by `time.perf_counter`, and the role of the version that did it."""
        self.id: str | None = None
        """Of its line in the access log; the client may give it."""
        self.trace: str | None = None
        """Of its trace, 32 hexadecimal digits."""

    def header(self, name: bytes) -> str | None:
        """A header by its name in lower case; the first one if there are several."""
        if self._headers is None:
            self._headers = dict(reversed(self.scope["headers"]))
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    def count(self, name: bytes) -> int:
        """How often a header was sent."""
        return sum(header == name for header, _ in self.scope["headers"])

    def query(self, name: str) -> str | None:
        """A parameter of the URL; the last one if there are several."""
        values = parse_qs(self.scope["query_string"].decode("latin-1"), keep_blank_values=True).get(name)
        return values[-1] if values else None

    @property
    def client(self) -> str | None:
        """Address and port of the client."""
        client = self.scope.get("client")
        return f"{client[0]}:{client[1]}" if client else None

    async def next_part(self) -> bytes | None:
        """The next part of the body; None at its end. Raises DisconnectedError if the client goes before."""
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            self._more = message.get("more_body", False)
            if part := message.get("body", b""):
                return bytes(part)
        return None

"""The reply to a request."""

from typing import Any

import msgspec

from corank.serving.http.transport.call import AsgiSend

JSON = "application/json"
LONGEST_ERROR = 2000
"""Characters of an error that are sent; a value of megabytes is not repeated to who sent it."""


class RefusedError(Exception):
    """A reply with a status other than 200."""

    def __init__(
        self, status: int, error: str, headers: dict[str, str] | None = None, why: str | None = None
    ) -> None:
        """
        Args:
            status: of the reply.
            error: what its body says.
            headers: of the reply.
            why: the limit that the request met, for the access log.
        """
        super().__init__(error)
        self.status, self.error, self.headers, self.why = status, error, headers, why


class HttpReply:
    """Status, headers and body."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        headers: dict[str, str] | None = None,
        content_type: str = JSON,
    ) -> None:
        self.body, self.status = body, status
        self.headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", content_type.encode()),
        ]
        if headers:
            self.headers += [(n.lower().encode(), value.encode("latin-1")) for n, value in headers.items()]

    async def send(self, send: AsgiSend, with_body: bool = True) -> None:
        """Send it, or its head alone."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body if with_body else b""})


def json_reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> HttpReply:
    """A reply of a value as JSON."""
    return HttpReply(msgspec.json.encode(value), status, headers)


def shorten_error(error: str) -> str:
    """Cut an error to LONGEST_ERROR characters."""
    return error if len(error) <= LONGEST_ERROR else f"{error[:LONGEST_ERROR]}… ({len(error):,} characters)"


def error_reply(error: str, status: int, headers: dict[str, str] | None = None) -> HttpReply:
    """A reply of an error as JSON."""
    return json_reply({"error": shorten_error(error)}, status, headers)

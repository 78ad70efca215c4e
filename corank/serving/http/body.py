"""Bodies read within limits, and replies in JSON."""

import asyncio
import hmac
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from corank.serving.http.serve_settings import Limits


class RefusedError(Exception):
    """A reply with a status other than 200."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers


async def read_body(http: HttpRequest, limits: Limits) -> bytes:
    """Read a body. Raises RefusedError if it is too large or too slow."""
    parts, size = [], 0
    length = http.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limits.body:
        raise RefusedError(413, f"a body has {limits.body:,} bytes at most")
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in http.stream():
                size += len(part)
                if size > limits.body:
                    raise RefusedError(413, f"a body has {limits.body:,} bytes at most")
                parts.append(part)
    except TimeoutError:
        message = f"the body did not come within {limits.seconds:g} s"
        raise RefusedError(408, message, {"Connection": "close"}) from None
    return b"".join(parts)


def check_token(http: HttpRequest, token: str | None) -> None:
    """Raise RefusedError unless a request carries the token of writers; without a token nobody may write."""
    if token is None:
        raise RefusedError(403, "nobody may write: the service was started without a token")
    given = http.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise RefusedError(
            401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply of a value as JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")

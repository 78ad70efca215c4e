"""The two lines of a body of `/rank/ahead`: a request without candidates, and its candidates."""

from typing import Any

import msgspec

from corank.core.errors import RequestError
from corank.serving.funnel.request import Request
from corank.serving.http.transport.codec import JSON_CODEC

_candidates: Any = next(field.type for field in msgspec.structs.fields(Request) if field.name == "candidates")


def read_query(line: bytes) -> Request:
    """Read the first line. Raises RequestError, which names the field."""
    JSON_CODEC.check(line)
    request = JSON_CODEC.decode(line, Request)
    if request.candidates is not None or request.retrieve is not None or request.where:
        raise RequestError(
            "body: the first line has neither candidates, retrieve nor where; the second has candidates"
        )
    return request


def read_candidates(line: bytes) -> list[Any]:
    """Read the second line. Raises RequestError, which names the field."""
    JSON_CODEC.check(line)
    candidates: list[Any] | None = JSON_CODEC.decode(line, _candidates)
    if candidates is None:
        raise RequestError("body: expected a list of candidates in the second line; received null")
    return candidates

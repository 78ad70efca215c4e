"""Replies in JSON, and the refusal of a request."""

from typing import Any

import msgspec
from starlette.responses import Response

LONGEST_ERROR = 2000
"""Characters of an error that are sent; a value of megabytes is not repeated to who sent it."""


class RefusedError(Exception):
    """A reply with a status other than 200."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply of a value as JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def error_response(error: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """A reply of an error, cut to LONGEST_ERROR characters."""
    if len(error) > LONGEST_ERROR:
        error = f"{error[:LONGEST_ERROR]}… ({len(error):,} characters)"
    return json_response({"error": error}, status, headers)

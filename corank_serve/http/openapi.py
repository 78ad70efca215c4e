"""The OpenAPI document of the service, made from the types that decode its bodies."""

from collections.abc import Iterable
from typing import Any

import msgspec

from corank.core.version import corank_version
from corank.funnel.request import RankAnswer, Request
from corank_serve.http.asgi import JSON
from corank_serve.http.body import CODECS, JSON_LINES, MSGPACK, Items, RequestBatch

ACCESS_ERRORS = {
    "401": "The token is missing or wrong",
    "403": "The token has another scope, or the service was called by another name or from another site's page",
}
ANY_OBJECT = {"type": "object"}
GETS: dict[str, tuple[str, dict[str, str]]] = {
    "/version": ("The live version and its stages", {}),
    "/example": ("A random request, made of values that the live version knows", {}),
    "/item": (
        "An item's features and columns",
        {"400": "No id given", "404": "No such item"},
    ),
    "/healthz": ("Whether the process is alive", {}),
    "/readyz": ("Whether requests should be sent here", {"503": "The service was told to end"}),
    "/status": ("Whether the source answers, and how far the service is behind it", {}),
}
"""Paths that tell what is served, and the state of the process: summary, errors by status."""


def make_document(max_body: int) -> dict[str, Any]:
    """Make the document of a service whose bodies have `max_body` bytes at most."""
    (rank, items, batch, answer), schemas = msgspec.json.schema_components(
        [Request, Items, RequestBatch, RankAnswer], ref_template="#/components/schemas/{name}"
    )
    # a part of a batch is decoded on its own
    schemas["RequestBatch"]["properties"]["requests"]["items"] = rank
    schemas["Error"] = {
        "type": "object",
        "properties": {"error": {"type": "string"}},
        "required": ["error"],
    }
    errors = {
        "400": "A field is invalid; the error names it",
        "408": "The body did not arrive in time",
        "413": f"The body has more than {max_body:,} bytes",
        "415": f"The body is not declared as {JSON} or {MSGPACK}",
        "503": "Too many requests are waiting, or the store cannot be written; see Retry-After",
    }
    item_errors = errors | ACCESS_ERRORS | {"409": "The service serves a bundle, not a store"}
    token: dict[str, Any] = {"security": [{"token": []}]}
    ahead = "Rank a request whose query comes first: a line without candidates, then a line of candidates"
    several = "Rank several requests by one version; an error of one stands in its place"
    posts = {
        "/rank": _operation("Rank the candidates of a request", errors, answer) | _body(rank),
        "/rank/ahead": _operation(ahead, errors, answer) | _body({"type": "string"}, [JSON_LINES]),
        "/rank/batch": _operation(several, errors) | _body(batch),
        "/items": _operation("Insert or replace items", item_errors) | _body(items) | token,
        "/reload": _operation(
            "Check for a new version now", ACCESS_ERRORS | {"503": "The source cannot be read"}
        )
        | token,
    }
    paths = {path: {"post": operation} for path, operation in posts.items()}
    paths |= {path: {"get": _operation(*described)} for path, described in GETS.items()}
    paths["/item"]["get"]["parameters"] = [
        {"name": "id", "in": "query", "required": True, "schema": {"type": "string"}}
    ]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "corank",
            "version": corank_version(),
            "description": "Ranks candidates by the stages of a funnel.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(summary: str, errors: dict[str, str], schema: Any = ANY_OBJECT) -> dict[str, Any]:
    """An operation with the schema of its answer, and its errors by status."""
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = {
        status: {"description": description, "content": error} for status, description in errors.items()
    }
    answer = {"description": "OK", "content": {JSON: {"schema": schema}}}
    return {"summary": summary, "responses": {"200": answer} | responses}


def _body(schema: Any, kinds: Iterable[str] = tuple(CODECS)) -> dict[str, Any]:
    """The body of an operation, in each of some content types."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}}

"""The OpenAPI document of the service, made from the types that decode its bodies."""

from collections.abc import Iterable
from typing import Any

import msgspec

from corank.core.version import corank_version
from corank.serving.funnel.request import Request
from corank.serving.http.asgi import JSON
from corank.serving.http.body import CODECS, JSON_LINES, MSGPACK, Items, RequestBatch

RATE_ERROR = {"429": "The token has sent more requests than its rate allows; see Retry-After"}
ACCESS_ERRORS = RATE_ERROR | {
    "401": "The token is missing or wrong",
    "403": "The token has another scope, or the service was called by another name or from another site's page",
}


def make_document(max_body: int) -> dict[str, Any]:
    """Make the document of a service whose bodies have `max_body` bytes at most."""
    (rank, items, batch), schemas = msgspec.json.schema_components(
        [Request, Items, RequestBatch], ref_template="#/components/schemas/{name}"
    )
    # a part of a batch is decoded on its own
    schemas["RequestBatch"]["properties"]["requests"]["items"] = rank
    schemas["Error"] = {
        "type": "object",
        "properties": {"error": {"type": "string"}},
        "required": ["error"],
    }
    body_errors = RATE_ERROR | {
        "400": "A field is invalid; the error names it",
        "408": "The body did not arrive in time",
        "413": f"The body has more than {max_body:,} bytes",
        "415": f"The body is not declared as {JSON} or {MSGPACK}",
    }
    busy = {"503": "Too many requests are waiting, or another version went live; see Retry-After"}
    no_store = {"409": "The service serves a bundle, not a store"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "corank",
            "version": corank_version(),
            "description": "Ranks candidates by the stages of a funnel.",
        },
        "paths": _rank_paths(rank, batch, body_errors | busy)
        | {
            "/items": {
                "post": _post(
                    "Insert or replace items",
                    items,
                    body_errors | ACCESS_ERRORS | busy | no_store,
                    needs_token=True,
                )
            },
            "/reload": {
                "post": _operation(
                    "Check for a new version now",
                    ACCESS_ERRORS | {"503": "The source cannot be read"},
                    needs_token=True,
                )
            },
        }
        | _state_paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _rank_paths(rank: Any, batch: Any, errors: dict[str, str]) -> dict[str, Any]:
    """Paths that rank, by the schemas of their bodies."""
    return {
        "/rank": {"post": _post("Rank the candidates of a request", rank, errors)},
        "/rank/ahead": {
            "post": _post(
                "Rank a request whose query comes first: a line without candidates, then a line of candidates",
                {"type": "string"},
                errors,
                kinds=[JSON_LINES],
            )
        },
        "/rank/batch": {
            "post": _post(
                "Rank several requests by one version; an error of one stands in its place",
                batch,
                errors,
            )
        },
    }


def _state_paths() -> dict[str, Any]:
    """Paths that tell what is served, and the state of the process."""
    return {
        "/version": {"get": _operation("The live version and its stages", RATE_ERROR)},
        "/example": {
            "get": _operation("A random request, made of values that the live version knows", RATE_ERROR)
        },
        "/item": {
            "get": _operation(
                "An item's features and columns",
                RATE_ERROR | {"400": "No id given", "404": "No such item"},
                ["id"],
            )
        },
        "/healthz": {"get": _operation("Whether the process is alive")},
        "/readyz": {
            "get": _operation("Whether requests should be sent here", {"503": "The service was told to end"})
        },
        "/status": {
            "get": _operation("Whether the source answers, and how far the service is behind it", RATE_ERROR)
        },
    }


def _operation(
    summary: str,
    errors: dict[str, str] | None = None,
    query: list[str] | None = None,
    needs_token: bool = False,
) -> dict[str, Any]:
    """An operation with its errors by status and its required query parameters."""
    responses: dict[str, Any] = {
        "200": {"description": "OK", "content": {JSON: {"schema": {"type": "object"}}}},
    }
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses |= {
        status: {"description": description, "content": error}
        for status, description in (errors or {}).items()
    }
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if query:
        operation["parameters"] = [
            {"name": name, "in": "query", "required": True, "schema": {"type": "string"}} for name in query
        ]
    return operation | ({"security": [{"token": []}]} if needs_token else {})


def _post(
    summary: str,
    body: Any,
    errors: dict[str, str],
    needs_token: bool = False,
    kinds: Iterable[str] = tuple(CODECS),
) -> dict[str, Any]:
    operation = _operation(summary, errors, needs_token=needs_token)
    return operation | {
        "requestBody": {"required": True, "content": {kind: {"schema": body} for kind in kinds}}
    }

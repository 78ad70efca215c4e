"""The OpenAPI document of the service, made from the types that read its bodies."""

from typing import Any

import msgspec

from corank import __version__
from corank.serving.http import schemas as bodies

JSON = "application/json"


def document(most: int) -> dict[str, Any]:
    """Of a service that takes bodies of at most so many bytes."""
    (rank, items), schemas = msgspec.json.schema_components(
        [bodies.Rank, bodies.Items], ref_template="#/components/schemas/{name}"
    )
    schemas["Error"] = {
        "type": "object",
        "properties": {"error": {"type": "string"}},
        "required": ["error"],
    }
    wrong = {
        "400": "A field is wrong; the error names it",
        "408": "The body did not come in time",
        "413": f"More than {most:,} bytes",
    }
    shut = {"401": "The token is wrong", "403": "Nobody may write"}
    busy = {"503": "Too many requests wait, or another version went live: see Retry-After"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "corank", "version": __version__, "description": "A funnel that ranks."},
        "paths": {
            "/rank": {"post": _posted("Rank the candidates of a request", rank, wrong | busy)},
            "/items": {
                "post": _posted(
                    "Put new or changed items in",
                    items,
                    wrong | shut | busy | {"409": "A bundle is served, not a store"},
                    locked=True,
                )
            },
            "/reload": {"post": _asked("Look for a newer version now", shut, locked=True)},
            "/version": {"get": _asked("The live version")},
            "/example": {"get": _asked("A request to rank, made up of what the live version knows")},
            "/item": {
                "get": _asked("What is known of an item", {"400": "No id", "404": "No such item"}, ["id"])
            },
            "/healthz": {"get": _asked("Whether the process lives")},
            "/readyz": {"get": _asked("Whether its source answers", {"503": "It does not; served on"})},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _asked(
    summary: str,
    wrong: dict[str, str] | None = None,
    query: list[str] | None = None,
    locked: bool = False,
) -> dict[str, Any]:
    answers: dict[str, Any] = {
        "200": {"description": "OK", "content": {JSON: {"schema": {"type": "object"}}}},
    }
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    answers |= {status: {"description": what, "content": error} for status, what in (wrong or {}).items()}
    operation: dict[str, Any] = {"summary": summary, "responses": answers}
    if query:
        operation["parameters"] = [
            {"name": name, "in": "query", "required": True, "schema": {"type": "string"}} for name in query
        ]
    return operation | ({"security": [{"token": []}]} if locked else {})


def _posted(summary: str, body: Any, wrong: dict[str, str], locked: bool = False) -> dict[str, Any]:
    operation = _asked(summary, wrong, locked=locked)
    return operation | {"requestBody": {"required": True, "content": {JSON: {"schema": body}}}}

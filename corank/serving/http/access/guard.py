"""Guards handlers: access is checked before, errors become replies in JSON, writes are recorded after."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from corank.core.errors import RequestError
from corank.serving.http.access.control import AccessControl
from corank.serving.http.access.refusal import LONGEST_ERROR, RefusedError, error_response
from corank.serving.http.access.tokens import Scope

Handler = Callable[[HttpRequest], Awaitable[Response]]


def guard(
    access: AccessControl, handler: Handler, needs: Scope | None = None, action: str | None = None
) -> Handler:
    """Wrap a handler.

    Args:
        access: who may call.
        handler: of the request; it may leave `change`, facts for the audit, in the request's state.
        needs: what a client must be allowed to do; None for what tells nothing of the data, which is open to all.
        action: name of what the audit records; None for what it does not.
    """

    async def handle(http: HttpRequest) -> Response:
        error = None
        try:
            if needs is not None:
                access.authorize(http, needs)
            response = await handler(http)
        except RefusedError as refused:
            error = refused.error
            response = error_response(error, refused.status, refused.headers)
        except RequestError as wrong:
            error = str(wrong)
            response = error_response(error, 400)
        except ClientDisconnect:
            error, response = "disconnected", Response(status_code=400)  # nobody reads it
        if action is not None:
            await _record(access, http, action, response.status_code, error)
        return response

    return handle


async def _record(
    access: AccessControl, http: HttpRequest, action: str, status: int, error: str | None
) -> None:
    client = f"{http.client.host}:{http.client.port}" if http.client else None
    facts = {"by": http.state.caller, "client": client} | getattr(http.state, "change", {})
    if error is not None:
        facts["error"] = error[:LONGEST_ERROR]
    await asyncio.to_thread(access.audit.record, action, status, **facts)

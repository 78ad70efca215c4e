"""Guards handlers: access is checked before, errors become replies in JSON, writes are recorded after."""

import asyncio

from corank.core.errors import RequestError
from corank.serving.http.access.control import AccessControl
from corank.serving.http.access.tokens import Scope
from corank.serving.http.transport.call import DisconnectedError, HttpCall
from corank.serving.http.transport.codec import answer_to
from corank.serving.http.transport.reply import LONGEST_ERROR, HttpReply, RefusedError, shorten_error
from corank.serving.http.transport.routes import Handler


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
            await _record(access, call, action, reply.status, error)
        return reply

    return handle


async def _record(access: AccessControl, call: HttpCall, action: str, status: int, error: str | None) -> None:
    facts = {"by": call.caller, "client": call.client} | call.change
    if error is not None:
        facts["error"] = error[:LONGEST_ERROR]
    await asyncio.to_thread(access.audit.record, action, status, **facts)

"""What every request must pass: names and pages, then tokens; and what is recorded of those that write."""

from dataclasses import dataclass, field

from corank.serving.http.access.audit import AuditLog
from corank.serving.http.access.origin import OriginPolicy
from corank.serving.http.access.tokens import Scope, Tokens
from corank.serving.http.transport.call import HttpCall
from corank.serving.http.transport.reply import RefusedError

BEARER = "Bearer "


@dataclass(frozen=True)
class AccessControl:
    """Who may call a service, and the audit of those who do."""

    origin: OriginPolicy = field(default_factory=OriginPolicy)
    tokens: Tokens = field(default_factory=Tokens)
    audit: AuditLog = field(default_factory=AuditLog)

    def authorize(self, call: HttpCall, needs: Scope) -> None:
        """Raise RefusedError unless a request may do what it needs. It is told the name of its token.

        To read, a token is needed once one of the scope `read` exists.
        """
        self.origin.check(call)
        given = call.header(b"authorization") or ""
        token = self.tokens.find(given.removeprefix(BEARER)) if given.startswith(BEARER) else None
        if token is not None:
            call.caller = token.name
            if token.allows < needs:
                raise RefusedError(
                    403, f"the token {token.name} is of scope {token.scope}; this needs {needs.name.lower()}"
                )
            return
        known = self.tokens.all()
        if known is not None:
            scopes = {one.allows for one in known}
            if needs is Scope.READ and Scope.READ not in scopes:
                return
            if max(scopes, default=Scope.READ) < needs:
                raise RefusedError(403, "nobody may write: the service was started without a token for it")
        raise RefusedError(
            401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )

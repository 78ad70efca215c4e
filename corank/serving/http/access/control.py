"""What every request must pass: names and pages, then tokens; and what is recorded of those that write."""

from dataclasses import dataclass, field
from math import ceil

from corank.serving.http.access.audit import AuditLog
from corank.serving.http.access.origin import OriginPolicy
from corank.serving.http.access.tokens import Scope, Tokens
from corank.serving.http.operations.rate_limit import Rate, RateLimiter
from corank.serving.http.transport.call import HttpCall
from corank.serving.http.transport.reply import RefusedError

BEARER = "Bearer "


@dataclass(frozen=True)
class AccessControl:
    """Who may call a service, and the audit of those who do."""

    origin: OriginPolicy = field(default_factory=OriginPolicy)
    tokens: Tokens = field(default_factory=Tokens)
    audit: AuditLog = field(default_factory=AuditLog)
    limiter: RateLimiter = field(default_factory=RateLimiter)
    rate: Rate | None = None
    """Of a token that states none, and of all requests without a token together; None for any."""

    def authorize(self, call: HttpCall, needs: Scope) -> None:
        """Raise RefusedError unless a request may do what it needs, now. Sets `call.caller` to its token's name.

        To read, a token is needed once one of the scope `read` exists.
        """
        self.origin.check(call)
        credentials = call.header(b"authorization") or ""
        token = self.tokens.find(credentials.removeprefix(BEARER)) if credentials.startswith(BEARER) else None
        if token is not None:
            call.caller = token.name
            if token.allows < needs:
                raise RefusedError(
                    403, f"the token {token.name} is of scope {token.scope}; this needs {needs.name.lower()}"
                )
            self._charge(call, token.limit or self.rate)
            return
        known = self.tokens.all()
        if known is not None:
            scopes = {one.allows for one in known}
            if needs is Scope.READ and Scope.READ not in scopes:
                self._charge(call, self.rate)
                return
            if max(scopes, default=Scope.READ) < needs:
                raise RefusedError(403, "nobody may write: the service was started without a token for it")
        raise RefusedError(
            401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )

    def _charge(self, call: HttpCall, rate: Rate | None) -> None:
        """Count a request of a token, and leave to it what counts more. Raises RefusedError if it is too many."""
        if rate is None:
            return

        def charge(count: int) -> None:
            wait = self.limiter.take(call.caller, rate, count)
            if wait > 0:
                raise RefusedError(
                    429,
                    f"{call.caller} may send {rate.per_second:g} requests a second; try again",
                    {"Retry-After": str(ceil(wait))},
                    "rate",
                )

        call.charge = charge
        charge(1)

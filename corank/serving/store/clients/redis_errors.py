"""The errors of redis-py in words."""

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
    TimeoutError,
    TryAgainError,
)

from corank.core.errors import StoreError

Kinds = tuple[type[Exception], ...]

REFUSED = (AuthenticationError, AuthorizationError, NoPermissionError)
LOST = (ConnectionError, TimeoutError)
ANY = (RedisError, RedisClusterException)
"""All errors of redis-py: those of its client of a cluster are no RedisErrors."""

ADVICE: list[tuple[Kinds, str]] = [
    (REFUSED, "the server refuses: {}; check user, password and their permissions"),
    ((BusyLoadingError,), "the server is loading its data; try again once it has"),
    (
        (OutOfMemoryError,),
        "the server is out of memory, nothing was written; raise maxmemory or drop versions",
    ),
    ((ReadOnlyError,), "the server is a replica, nothing was written; give the address of its primary"),
    ((AskError,), "the server is one of a cluster; give redis+cluster://HOST:PORT"),
    (LOST, "the server cannot be reached: {}; start it, or check the address"),
    (ANY, "{}"),
]
"""The first that fits counts, since some of these are kinds of ConnectionError."""

CLUSTER_ADVICE: list[tuple[Kinds, str]] = [
    (
        (ClusterDownError, SlotNotCoveredError),
        "the cluster is down in part: {}; bring back the primaries that failed, or promote their replicas",
    ),
    (
        (OutOfMemoryError,),
        "a server of the cluster is out of memory, others may have written their part; raise maxmemory or drop "
        "versions",
    ),
    (
        (AskError, TryAgainError),
        "a slot is being moved between servers: {}; try again once it has, or see `CLUSTER NODES`",
    ),
    ((RedisClusterException,), "{}; give redis://HOST:PORT of a server that is of no cluster"),
    *ADVICE,
]
"""As `ADVICE`, of a cluster."""


def explain_error(address: str, error: Exception, advice: list[tuple[Kinds, str]]) -> StoreError:
    """Return an error of redis-py as one that says what to do.

    Args:
        address: of the store, without password.
        error: one of `ANY`.
        advice: by kinds of errors; the first that fits counts.
    """
    template = next(text for kinds, text in advice if isinstance(error, kinds))
    return StoreError(f"{address}: {template.format(error)}")


def explain_lost_reply(address: str, error: Exception) -> StoreError:
    """Return the error of a connection that was lost after a write was sent."""
    return StoreError(
        f"{address}: the connection was lost: {error}; what was sent may or may not have been written: see what the "
        "store holds before you send it again"
    )

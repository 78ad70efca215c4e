"""A connection to a Redis server, whose errors say what to do.

The errors of redis-py in words.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
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
    WatchError,
)
from redis.retry import Retry

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


CONNECT_SECONDS = 2.0
REPLY_SECONDS = 5.0


class RedisConnection:
    """A client of one server, whose errors are StoreErrors. Safe to share between threads."""

    def __init__(self, url: str, address: str, password: str | None = None) -> None:
        """Connect to a server.

        Args:
            url: with redis-py's options.
            address: the URL without password, for messages.
            password: if the URL has none.

        Raises StoreError; TypeError or ValueError if the URL or its options are malformed.
        """
        self._address = address
        self._client = Redis.from_url(
            url,
            password=password,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=REPLY_SECONDS,
            # redis-py's retries are off for every kind of error: they send a transaction twice, and take a
            # connection that is lost in a swap for a head that has changed
            retry=Retry(NoBackoff(), 0, supported_errors=()),
        )
        self.ping()

    def ping(self) -> None:
        """Raise StoreError if the server does not answer."""
        with self.client() as client:
            client.ping()

    @contextmanager
    def client(self) -> Iterator[Redis]:
        """The client, for a block whose RedisErrors become StoreErrors with a remedy."""
        try:
            yield self._client
        except RedisError as error:
            raise explain_error(self._address, error, ADVICE) from None

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """A new pipeline, for a block like that of `client`."""
        with self.client() as client, client.pipeline() as pipe:
            yield pipe

    def execute(self, pipe: Pipeline) -> bool:
        """Run the commands of a pipeline in one transaction; False if a watched key has changed."""
        try:
            pipe.execute()
        except WatchError:
            return False
        except (*REFUSED, BusyLoadingError):
            raise
        except LOST as error:
            raise explain_lost_reply(self._address, error) from None
        return True

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

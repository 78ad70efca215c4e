"""A connection to a Redis server, whose errors say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import BusyLoadingError, RedisError, WatchError
from redis.retry import Retry

from corank.serving.store.clients.redis_errors import ADVICE, LOST, REFUSED, explain_error, explain_lost_reply

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

"""Commands and replies of one connection to a server; an error that the server sends is a reply."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from redis.connection import ConnectionInterface
from redis.exceptions import AskError, ResponseError, TryAgainError

Words: TypeAlias = tuple[bytes | str | int, ...]
"""A command."""

REDIRECTIONS = (AskError, TryAgainError)
"""Errors of a command that was not carried out, since its slot was moved or is being moved."""


def send_commands(link: ConnectionInterface, commands: Sequence[Words]) -> None:
    """Send commands to a server. Raises ConnectionError, TimeoutError of redis-py."""
    link.send_packed_command(link.pack_commands(commands))


def read_reply(link: ConnectionInterface) -> Any:
    """Read the next reply. Raises as `send_commands`."""
    try:
        return link.read_response()
    except ResponseError as error:
        return error


def converse(link: ConnectionInterface, commands: Sequence[Words]) -> list[Any]:
    """Send commands to a server and read their replies. Raises as `send_commands`."""
    send_commands(link, commands)
    return [read_reply(link) for _ in commands]


def raise_error(replies: Iterable[Any]) -> None:
    """Raise the first error of some replies."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply


def watch_value(link: ConnectionInterface, key: bytes, value: bytes | None) -> bool:
    """Watch a key, so that a transaction fails if it changes; False, with nothing watched, if it has another value."""
    replies = converse(link, [("WATCH", key), ("GET", key)])
    raise_error(replies)
    if replies[1] != value:
        raise_error(converse(link, [("UNWATCH",)]))
        return False
    return True


def write_any(link: ConnectionInterface, keys: Iterable[bytes]) -> None:
    """Write the first of some keys whose slot the server has and does not move, for a moment. Raises a redirection."""
    error = None
    for key in keys:
        (error,) = converse(link, [("SET", key, b"", "PX", 1)])
        if not isinstance(error, REDIRECTIONS):
            break
    raise_error([error])

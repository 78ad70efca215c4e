"""Messages between a service and the process that reads its store: 4 bytes of length, then MessagePack."""

import math
import socket
import time
from typing import Any

import msgspec

MOST = 2**30
"""Bytes of a message."""
HEADER = 4
PIECE = 2**20
"""Bytes received at once."""

_encoder = msgspec.msgpack.Encoder()


def send_frame(to: socket.socket, message: object) -> None:
    """Send a message. Raises OSError, TimeoutError, OverflowError if it is too long."""
    content = _encoder.encode(message)
    if len(content) > MOST:
        raise OverflowError(f"a message of {len(content):,} bytes, and {MOST:,} are the most")
    to.sendall(len(content).to_bytes(HEADER, "little") + content)


def receive_frame(source: socket.socket, due: float = math.inf) -> Any:
    """Receive a message.

    Args:
        source: a socket.
        due: until when, by `time.monotonic`.

    Raises EOFError if the other side has closed the socket, or sends what is no message; TimeoutError, OSError.
    """
    size = int.from_bytes(_receive(source, HEADER, due), "little")
    if size > MOST:
        raise EOFError
    try:
        return msgspec.msgpack.decode(_receive(source, size, due))
    except msgspec.DecodeError:
        raise EOFError from None


def _receive(source: socket.socket, size: int, due: float) -> bytes:
    """Receive a number of bytes; most messages come at once."""
    pieces, left = list[bytes](), size
    while left:
        if due < math.inf:
            seconds = due - time.monotonic()
            if seconds <= 0:
                raise TimeoutError
            source.settimeout(seconds)
        piece = source.recv(min(left, PIECE))
        if not piece:
            raise EOFError
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

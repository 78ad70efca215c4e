"""Writes the head of a response together with its body.

uvicorn writes them apart, which takes a system call more and, as nothing delays small packets, a packet more.
"""

import asyncio

INTERIM = b"HTTP/1.1 1"
"""How what comes before a response begins, such as `100 Continue`."""


class ResponseWriter:
    """What uvicorn uses of a transport to write one response that has a body."""

    __slots__ = ("_began", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        """`transport`: of the connection."""
        self._transport, self._head, self._began = transport, b"", False

    def write(self, data: bytes) -> None:
        """Hold the head, which comes first; write the body, or a part of it, with the head if that is held."""
        if not self._began and not data.startswith(INTERIM):
            self._head, self._began = data, True
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection after what was written."""
        if self._head:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closed, or closes."""
        return self._transport.is_closing()

"""A response's head goes out with its body, in one write."""

import asyncio
from typing import cast

import pytest

from corank_serve.http.connections import ResponseWriter

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Recorder:
    """Stands for a transport, and keeps what is written in one call each."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.mark.parametrize(
    ("data", "written"),
    [
        ([HEAD], []),
        ([HEAD, b"body"], [HEAD + b"body"]),
        ([HEAD, b"", b"HTTP/1.1 200 OK", b"HTTP/1.1 100"], [HEAD, b"HTTP/1.1 200 OK", b"HTTP/1.1 100"]),
        ([CONTINUE, HEAD, b"body"], [CONTINUE, HEAD + b"body"]),
        ([HEAD, None], [HEAD]),
    ],
)
def test_a_head_waits_for_its_body_or_the_end(data: list[bytes | None], written: list[bytes]) -> None:
    recorder = Recorder()
    response = ResponseWriter(cast(asyncio.Transport, recorder))
    for part in data:
        response.close() if part is None else response.write(part)
    assert recorder.written == written and response.is_closing() == (data[-1] is None)

"""A response's head goes out with its body, in one write."""

import asyncio
from typing import cast

from corank.serving.http.connections import ResponseWriter


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


def writer() -> tuple[ResponseWriter, Recorder]:
    recorder = Recorder()
    return ResponseWriter(cast(asyncio.Transport, recorder)), recorder


def test_head_and_body_are_one_write() -> None:
    response, recorder = writer()
    response.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert recorder.written == []
    response.write(b"body")
    assert recorder.written == [b"HTTP/1.1 200 OK\r\n\r\nbody"]


def test_further_parts_go_out_at_once_whatever_they_look_like() -> None:
    response, recorder = writer()
    for data in (b"HTTP/1.1 200 OK\r\n\r\n", b"", b"HTTP/1.1 200 OK", b"HTTP/1.1 100"):
        response.write(data)
    assert recorder.written == [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK", b"HTTP/1.1 100"]


def test_what_comes_before_a_response_is_not_held() -> None:
    response, recorder = writer()
    response.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert recorder.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    response.write(b"HTTP/1.1 200 OK\r\n\r\n")
    response.write(b"body")
    assert recorder.written[1:] == [b"HTTP/1.1 200 OK\r\n\r\nbody"]


def test_a_held_head_is_written_before_the_connection_closes() -> None:
    response, recorder = writer()
    response.write(b"HTTP/1.1 500 \r\n\r\n")
    response.close()
    assert recorder.written == [b"HTTP/1.1 500 \r\n\r\n"] and response.is_closing()

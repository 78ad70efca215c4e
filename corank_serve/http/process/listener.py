"""The socket that the workers of a service listen on, and how many files they may open: connections are files, too."""

import ctypes
import resource
import socket
import struct
import sys
from contextlib import suppress

from corank.core.errors import ConfigError, CorankError

SO_ATTACH_FILTER = 26
"""Linux; not a constant of Python's module."""
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A packet filter of one instruction: return 0, the number of bytes to keep."""


def bind_listener(host: str, port: int) -> socket.socket:
    """Bind a socket to an address; a worker listens on it. Raises CorankError if the address cannot be used."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # a name such as localhost may have addresses of both families
        family, kind, protocol, _, address = min(addresses, key=lambda one: one[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CorankError(f"{host}:{port}: cannot be served: {error.strerror or error}") from None
    return listener


def refuse_connections(listener: socket.socket) -> None:
    """Let the kernel drop the packets of new connections, so that no more come to be accepted.

    Closing a listening socket resets the connections that nobody has accepted yet. After this call none are added, so
    that a process which then accepts all that wait can close the socket without a loss. A client that connects
    meanwhile sends its first packet again a second later, and learns that nobody listens. On systems other than Linux
    nothing is done, nor where the kernel lets only root attach a filter.
    """
    if sys.platform == "linux":
        instructions = ctypes.create_string_buffer(DROP_ALL, len(DROP_ALL))
        program = struct.pack("HP", 1, ctypes.addressof(instructions))
        with suppress(PermissionError):
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


OTHER_FILES = 256
"""Files that a worker opens in addition to its connections: its bundle, its store, its logs."""


def allow_open_files(connections: int) -> None:
    """Let this process and its workers open as many files as they need. Raises ConfigError if they may not."""
    needed = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"--connections {connections}: needs {needed} open files, and `ulimit -Hn` is {hard}; raise it, or "
            "lower --connections"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))

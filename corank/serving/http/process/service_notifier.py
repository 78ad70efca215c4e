"""Tells systemd how the service is: that it is ready, reads its settings anew, ends, and is alive.

The protocol of sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names. Without it nothing is sent.
"""

import os
import socket
import time
from contextlib import suppress

NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class ServiceNotifier:
    """Sends the state of this process to systemd; what it reads of the environment is not left to other processes."""

    def __init__(self) -> None:
        self._address = os.environ.pop(NOTIFY_SOCKET, "")
        microseconds = os.environ.pop(WATCHDOG_USEC, "")
        mine = os.environ.pop(WATCHDOG_PID, str(os.getpid())) == str(os.getpid())
        self._every = int(microseconds) / 2e6 if microseconds.isdecimal() and mine else 0.0
        """Seconds between two signs of life: half of what systemd waits for one; 0 if it does not."""
        self._next = 0.0

    def tell_ready(self, status: str) -> None:
        """Tell that requests are answered."""
        self._send(f"READY=1\nSTATUS={status}")

    def tell_reloading(self) -> None:
        """Tell that settings are read anew; `tell_ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def tell_stopping(self) -> None:
        """Tell that the service ends."""
        self._send("STOPPING=1")

    def tell_alive(self) -> None:
        """Give a sign of life, if one is due."""
        now = time.monotonic()
        if self._every and now >= self._next:
            self._next = now + self._every
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # a name that begins with @ lies in the abstract namespace
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), address)

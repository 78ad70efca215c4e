"""Two hosts on one machine: network namespaces joined by a link of a given rate, or of a given delay and loss.

A link with a rate is a pair of virtual devices that the kernel limits. A link with delay and loss is a pair of tunnels
between which this process carries the packets. Both need root on Linux, and a tunnel needs /dev/net/tun.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ADDRESSES = ("10.88.0.1", "10.88.0.2")
"""Of the two hosts."""
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_MTU = 1500


def can_make_hosts() -> bool:
    """Whether this process may make network namespaces and tunnels; a container of root may not."""
    if os.name != "posix" or os.geteuid() or not Path("/dev/net/tun").exists():
        return False
    name = f"corank-{os.urandom(3).hex()}"
    probe = f"ip netns add {name} && ip netns exec {name} ip tuntap add dev ln0 mode tun"
    made = subprocess.run(["sh", "-c", probe], capture_output=True, check=False).returncode == 0
    subprocess.run(["sh", "-c", f"ip netns del {name}"], capture_output=True, check=False)
    return made


@dataclass(frozen=True)
class Hosts:
    """Two network namespaces, by name; the first has the first of ADDRESSES."""

    names: tuple[str, str]
    lost: list[int] = field(default_factory=list)
    """Sizes in bytes of the packets that the link lost, if it loses any."""

    def command(self, host: int, arguments: list[str]) -> list[str]:
        """The command that runs another one on a host."""
        return ["ip", "netns", "exec", self.names[host], *arguments]

    def enter(self, host: int) -> None:
        """Move this thread, and what it starts from now on, to a host."""
        _enter(self.names[host])

    def device(self, host: int) -> str:
        """The network device by which a host reaches the other."""
        return f"ln{host}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def _namespaces() -> Iterator[Hosts]:
    tag = os.urandom(3).hex()
    hosts = Hosts((f"corank-{tag}-0", f"corank-{tag}-1"))
    try:
        for name in hosts.names:
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        yield hosts
    finally:
        for name in hosts.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _configure(hosts: Hosts) -> None:
    for n, name in enumerate(hosts.names):
        _run("ip", "-n", name, "address", "add", f"{ADDRESSES[n]}/24", "dev", hosts.device(n))
        _run("ip", "-n", name, "link", "set", hosts.device(n), "up")


@contextmanager
def hosts_at_rate(gigabits: float) -> Iterator[Hosts]:
    """Two hosts whose link carries so many Gbit/s in each direction."""
    with _namespaces() as hosts:
        one, other = hosts.names
        _run("ip", "-n", one, "link", "add", "ln0", "type", "veth", "peer", "name", "ln1", "netns", other)
        _configure(hosts)
        for n, name in enumerate(hosts.names):
            device, rate = hosts.device(n), f"{round(gigabits * 1000)}mbit"
            _run(
                "tc", "-n", name, "qdisc", "add", "dev", device, "root", "handle", "1:", "htb", "default", "1"
            )
            _run(
                *("tc", "-n", name, "class", "add", "dev", device, "parent", "1:", "classid", "1:1"),
                *("htb", "rate", rate, "burst", "256k", "cburst", "256k", "quantum", "60000"),
            )
        yield hosts


@contextmanager
def hosts_with_loss(delay: float, loss: float, seed: int = 0) -> Iterator[Hosts]:
    """Two hosts whose link takes `delay` seconds in each direction and loses a share `loss` of the packets."""
    with _namespaces() as hosts:
        ends = [_open_tunnel(name, hosts.device(n)) for n, name in enumerate(hosts.names)]
        _configure(hosts)
        stop = threading.Event()
        carriers = [
            threading.Thread(
                target=_carry,
                args=(ends[n], ends[1 - n], delay, loss, random.Random(seed + n), stop, hosts.lost),
                daemon=True,
            )
            for n in (0, 1)
        ]
        try:
            for carrier in carriers:
                carrier.start()
            yield hosts
        finally:
            stop.set()
            for carrier in carriers:
                carrier.join()
            for end in ends:
                os.close(end)


def _enter(namespace: str) -> None:
    """Move this thread to a network namespace."""
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(there)


def _open_tunnel(namespace: str, device: str) -> int:
    """Make a tunnel in a namespace; its other end is the file that is returned."""
    tunnels: list[int] = []

    def open_there() -> None:
        _enter(namespace)  # in a thread of its own, since a namespace is a thread's
        tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tunnel, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
        tunnels.append(tunnel)

    opening = threading.Thread(target=open_there)
    opening.start()
    opening.join()
    return tunnels[0]


def _carry(
    source: int,
    target: int,
    delay: float,
    loss: float,
    rng: random.Random,
    stop: threading.Event,
    lost: list[int],
) -> None:
    """Carry packets from one tunnel to another until the event is set."""
    packets: list[tuple[float, int, bytes]] = []
    number = 0
    # select() takes no file above 1,023, and a process that runs many tests has more
    arrivals = select.poll()
    arrivals.register(source, select.POLLIN)
    while not stop.is_set():
        wait = max(0.0, packets[0][0] - time.monotonic()) if packets else 0.05
        if arrivals.poll(1000 * min(wait, 0.05)):
            with suppress(BlockingIOError):  # nothing there after all
                packet = os.read(source, _MTU + 64)
                if rng.random() < loss:
                    lost.append(len(packet))
                else:
                    number += 1
                    heapq.heappush(packets, (time.monotonic() + delay, number, packet))
        while packets and packets[0][0] <= time.monotonic():
            with suppress(OSError):  # a device that is full or down drops the packet, as a host does
                os.write(target, heapq.heappop(packets)[2])

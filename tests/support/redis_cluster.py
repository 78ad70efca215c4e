"""A cluster of servers that speak the Redis protocol, for tests: real ones on free ports of this machine."""

import atexit
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.support.ports import free_port
from tests.support.redis_server import Server, redis_server
from tests.support.waiting import PATIENCE, eventually

SLOTS = 16384
PRIMARIES = 3
OPTIONS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "60000", "--repl-diskless-sync-delay", "0"),
    *("--cluster-allow-replica-migration", "no"),  # a server whose last slot has gone stays a primary
)


def connect(server: Server) -> redis.Redis:
    """A client of a server alone."""
    return redis.Redis(port=server.port, socket_timeout=PATIENCE, retry=Retry(NoBackoff(), 0))


class Cluster:
    """Three primaries, which share the slots evenly, and a replica of the first, which may take its place."""

    def __init__(self, servers: list[Server], bus: list[int]) -> None:
        """
        Args:
            servers: that have started, alone.
            bus: the port of each for the others of the cluster.
        """
        self.servers, self.clients = servers, [connect(server) for server in servers]
        self.names = [str(self.call(n, "CLUSTER", "MYID"), "ascii") for n in range(len(servers))]
        for n in range(PRIMARIES):
            first, last = n * SLOTS // PRIMARIES, (n + 1) * SLOTS // PRIMARIES - 1
            self.call(n, "CLUSTER", "ADDSLOTSRANGE", first, last)
            self.call(n, "CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for n in range(1, len(servers)):
            self.call(0, "CLUSTER", "MEET", "127.0.0.1", servers[n].port, bus[n])
        self.wait(lambda: all(len(self.nodes(n)) == len(servers) for n in range(len(servers))))
        self.call(PRIMARIES, "CLUSTER", "REPLICATE", self.names[0])
        self.settle()

    @property
    def url(self) -> str:
        """Names two servers, with a prefix that no other store has."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[1:3])
        return f"redis+cluster://{hosts}?prefix={uuid4().hex}"

    def call(self, server: int, *words: str | bytes | int) -> Any:
        """A server's answer to a command."""
        return self.clients[server].execute_command(*words)

    def nodes(self, server: int) -> dict[str, list[str]]:
        """The fields of each server as one of them knows it, by name."""
        lines = str(self.call(server, "CLUSTER", "NODES"), "ascii").splitlines()
        return {line.split()[0]: line.split()[1:] for line in lines}

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until a condition holds."""
        eventually(lambda: self._holds(condition))

    def _holds(self, condition: Callable[[], bool]) -> bool:
        with suppress(redis.RedisError):
            return condition()
        return False

    def settle(self) -> None:
        """Until all servers say that all is well, and the replica has what its primary has."""
        self.wait(lambda: all(self._is_well(n) for n in range(len(self.servers))))

    def _is_well(self, server: int) -> bool:
        flags = [fields[1].removeprefix("myself,") for fields in self.nodes(server).values()]
        replication = self.clients[server].info("replication")
        return (
            sorted(flags) == ["master"] * PRIMARIES + ["slave"]
            and b"cluster_state:ok" in self.call(server, "CLUSTER", "INFO")
            and replication.get("master_link_status", "up") == "up"
        )

    def pair(self) -> tuple[int, int]:
        """The primary that has a replica, and the replica: the first and the last server, in either order."""
        primary_of = {name: fields[2] for name, fields in self.nodes(1).items()}
        first, last = self.names[0], self.names[PRIMARIES]
        return (0, PRIMARIES) if primary_of[last] == first else (PRIMARIES, 0)

    def owner(self, key: bytes) -> int:
        """The server that has a key's slot."""
        slot, ports = key_slot(key), [server.port for server in self.servers]
        ranges = self.call(1, "CLUSTER", "SLOTS")
        return next(ports.index(at[1]) for first, last, at, *_ in ranges if first <= slot <= last)

    def prefix_on(self, server: int) -> str:
        """A prefix whose head lies on a server."""
        return next(p for p in iter(lambda: uuid4().hex, "") if self.owner(b"{%b}" % p.encode()) == server)

    def catch_up(self) -> None:
        """Until the replica has all that was written."""
        primary, replica = (self.clients[n] for n in self.pair())
        offset = "master_repl_offset"
        self.wait(lambda: primary.info("replication")[offset] == replica.info("replication")[offset])

    def cut_off(self) -> None:
        """Stop the replica, so that it never gets what is written from now on, not even from a socket's buffer."""
        primary, replica = self.pair()
        self.catch_up()
        self.pause(replica, True)
        self.call(primary, "CLIENT", "KILL", "TYPE", "replica")

    def fail_over(self) -> None:
        """Kill the primary that has a replica, as a crash does, and let the replica take its place."""
        primary, replica = self.pair()
        self.servers[primary].kill()
        self.pause(replica, False)
        self.call(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
        living = [n for n in range(len(self.servers)) if n != primary]
        name = self.names[replica]
        self.wait(lambda: all(self.nodes(n)[name][1].removeprefix("myself,") == "master" for n in living))

    def recover(self) -> None:
        """Start the server again that was killed: it is the replica then."""
        for server in self.servers:
            if server.process is None:
                server.start()
        self.settle()

    @contextmanager
    def joined(self, folder: Path) -> Iterator[int]:
        """A server more within a block, a primary without slots."""
        bus = free_port()
        with redis_server(folder, *OPTIONS, "--cluster-port", str(bus)) as server:
            self.servers.append(server)
            self.clients.append(connect(server))
            new = len(self.names)
            self.names.append(str(self.call(new, "CLUSTER", "MYID"), "ascii"))
            self.call(0, "CLUSTER", "MEET", "127.0.0.1", server.port, bus)
            self.wait(lambda: all(len(self.nodes(n)) == new + 1 for n in range(new + 1)))
            self.wait(lambda: b"cluster_state:ok" in self.call(new, "CLUSTER", "INFO"))
            try:
                yield new
            finally:
                self.servers.pop()
                self.clients.pop().close()
                name = self.names.pop()
                for n in range(new):
                    self.call(n, "CLUSTER", "FORGET", name)

    def move_slot(self, slot: int, source: int, target: int) -> Iterator[int]:
        """Move a slot between servers, in steps, which are counted: marked, each key moved, all notified."""
        self.call(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.names[source])
        self.call(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.names[target])
        yield 0
        step = 0
        while keys := self.call(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            self.call(
                source, "MIGRATE", "127.0.0.1", self.servers[target].port, keys[0], 0, round(1e3 * PATIENCE)
            )
            yield (step := step + 1)
        for server in (target, source):
            self.call(server, "CLUSTER", "SETSLOT", slot, "NODE", self.names[target])
        yield step + 1

    def pause(self, server: int, paused: bool) -> None:
        """Stop the process of a server, or let it continue."""
        process = self.servers[server].process
        assert process is not None
        process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)


def start_cluster(stack: ExitStack, folder: Path) -> Cluster:
    """Start a cluster, which ends with the stack; skips the test where there is no binary."""
    servers, bus = list[Server](), list[int]()
    for n in range(PRIMARIES + 1):
        (folder / str(n)).mkdir()
        bus.append(free_port())
        options = (*OPTIONS, "--cluster-port", str(bus[-1]))
        servers.append(stack.enter_context(redis_server(folder / str(n), *options)))
    cluster = Cluster(servers, bus)
    for client in cluster.clients:
        stack.callback(client.close)
    return cluster


@cache
def shared_cluster() -> Cluster:
    """The cluster of all tests of this process, which ends with the process."""
    stack, folder = ExitStack(), Path(tempfile.mkdtemp(prefix="corank-cluster-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(stack.close)
    return start_cluster(stack, folder)

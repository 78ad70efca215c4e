"""Starts the ranks of a training as `torchrun` does: processes that find their place in the environment."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support import kills
from tests.support.network import ADDRESSES, Hosts
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE


def fork_ranks(
    function: Callable[..., object], world: int, *arguments: object, hosts: Hosts | None = None
) -> list[tuple[int, str]]:
    """Call a function of a module on some ranks, forked from a process that has loaded corank.

    Each is on a host of its own if `hosts` are given. Returns the exit code and the errors of each.
    """
    address = "127.0.0.1" if hosts is None else ADDRESSES[0]
    shared = {"MASTER_ADDR": address, "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    with TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(world)]
        ranks = [
            kills.start(
                _call,
                function,
                shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                hosts and (hosts, rank),
                files[rank],
                arguments,
            )
            for rank in range(world)
        ]
        for rank in ranks:
            rank.join(4 * PATIENCE)  # whole trainings
            rank.kill()
            rank.join()
        errors = [file.read_text(encoding="utf-8") if file.exists() else "" for file in files]
    return [(rank.exitcode or 0, text) for rank, text in zip(ranks, errors, strict=True)]


def _call(
    function: Callable[..., object],
    environment: dict[str, str],
    host: tuple[Hosts, int] | None,
    errors: Path,
    arguments: tuple[object, ...],
) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    os.environ |= environment
    if host is not None:
        hosts, number = host
        hosts.enter(number)
        # a namespace has the machine's name, which leads nowhere there: gloo needs the device
        os.environ["GLOO_SOCKET_IFNAME"] = hosts.device(number)
    function(*arguments)

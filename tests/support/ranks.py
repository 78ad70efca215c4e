"""Starts the ranks of a training as `torchrun` does: processes that find their place in the environment."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support import kills
from tests.support.network import ADDRESSES, Hosts
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def start_ranks(
    module: str, world: int, *arguments: str, hosts: Hosts | None = None
) -> list[tuple[int, str]]:
    """Run a module of the tests on some ranks, each on a host of its own if `hosts` are given.

    Returns the exit code and the errors of each.
    """
    address = "127.0.0.1" if hosts is None else ADDRESSES[0]
    shared = {"MASTER_ADDR": address, "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    shared |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            _command([sys.executable, "-m", module, *arguments], rank, hosts),
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, text) for rank, text in zip(ranks, errors, strict=True)]


def fork_ranks(function: Callable[..., object], world: int, *arguments: object) -> list[tuple[int, str]]:
    """Call a function of a module on some ranks, forked from a process that has loaded corank.

    Returns the exit code and the errors of each.
    """
    port = free_port()
    with TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(world)]
        ranks = [
            kills.start(_call, function, rank, world, port, files[rank], arguments) for rank in range(world)
        ]
        for rank in ranks:
            rank.join(240)
            rank.kill()
            rank.join()
        errors = [file.read_text(encoding="utf-8") if file.exists() else "" for file in files]
    return [(rank.exitcode or 0, text) for rank, text in zip(ranks, errors, strict=True)]


def _call(
    function: Callable[..., object],
    rank: int,
    world: int,
    port: int,
    errors: Path,
    arguments: tuple[object, ...],
) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world}
    os.environ |= {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
    function(*arguments)


def _command(arguments: list[str], rank: int, hosts: Hosts | None) -> list[str]:
    if hosts is None:
        return arguments
    # a namespace has the machine's name, which leads nowhere there: gloo must be told the device
    return hosts.command(rank, ["env", f"GLOO_SOCKET_IFNAME={hosts.device(rank)}", *arguments])

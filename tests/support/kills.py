"""Functions run in processes of their own, which are killed by SIGKILL at their n-th change of a folder.

The processes are forked from one that has loaded corank and has no threads, so that each starts in an instant.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree", "ctypes.dlsym"}
"""Audit events before which a process is killed: `ctypes.dlsym` comes before folders are exchanged."""

CONTEXT = multiprocessing.get_context("forkserver")
"""Its server loads once what tests and benchmarks run in processes."""
# optimisers import torch._dynamo, which takes a second
CONTEXT.set_forkserver_preload(["pytest", "torch._dynamo", "tests.support.shared", "tests.support.writers"])


def start(function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Start a process that calls a function of a module."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def run(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a process, and wait for its end."""
    process = start(function, *arguments)
    process.join()
    assert process.exitcode == 0, f"{function.__name__}: exit {process.exitcode}"


def count_changes(function: Callable[..., object], *arguments: object) -> int:
    """Call a function in a process, and count its changes of folders."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    run(_count, writer, function, *arguments)
    return int(reader.recv())


def _count(pipe: Any, function: Callable[..., object], *arguments: object) -> None:
    count = 0

    def hook(event: str, _: object) -> None:
        nonlocal count
        count += event in CHANGES

    sys.addaudithook(hook)
    function(*arguments)
    pipe.send(count)


def kill_at(change: int, function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a process that is killed before its n-th change of a folder, counted from 1."""
    process = start(call_until, change, function, *arguments)
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"{function.__name__}: exit {process.exitcode}"


def call_until(change: int, function: Callable[..., object], *arguments: object) -> None:
    """Call a function, and kill this process before its n-th change of a folder, counted from 1."""
    count = 0

    def hook(event: str, _: object) -> None:
        nonlocal count
        if event in CHANGES:
            count += 1
            if count == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    function(*arguments)


def kill_before(name: str, function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a process that is killed before a file or folder gets its name, the end of a path."""
    process = start(_call_until_named, name, function, *arguments)
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"{function.__name__}: exit {process.exitcode}"


def _call_until_named(name: str, function: Callable[..., object], *arguments: object) -> None:
    def hook(event: str, event_arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and os.fspath(event_arguments[1]).endswith(name):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    function(*arguments)

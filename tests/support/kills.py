"""Functions run in processes of their own, which are killed by SIGKILL at their n-th change of a folder.

The processes are forked from one that has loaded corank and has no threads, so that each starts in an instant.
"""

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

from corank.core.errors import CorankError

REQUEST = "tests.request"
"""An audit event that tests raise before a request to a store, with the error that a refusal is."""
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree", REQUEST}
"""Audit events before which a process is killed, besides those of files that are opened to be written."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

Act = Callable[[str, tuple[Any, ...]], object]
"""Takes an audit event and its arguments."""

CONTEXT = multiprocessing.get_context("forkserver")
"""Its server loads once what tests and benchmarks run in processes."""
# optimisers import torch._dynamo, which takes a second
LOADED = "pytest torch._dynamo corank.api.runs corank.cli.main corank_serve.store.upsert tests.support.shared"
CONTEXT.set_forkserver_preload(LOADED.split())


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
    changes: list[str] = []
    _before_changes(lambda event, _: changes.append(event))
    function(*arguments)
    pipe.send(len(changes))


def kill_at(change: int, function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a process that is killed before its n-th change of a folder, counted from 1."""
    process = start(call_until, change, function, *arguments)
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"{function.__name__}: exit {process.exitcode}"


def call_until(change: int, function: Callable[..., object], *arguments: object) -> None:
    """Call a function, and kill this process before its n-th change of a folder, counted from 1."""
    _call_at(change, _die, function, *arguments)


def _die(event: str, arguments: tuple[Any, ...]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_at(change: int, function: Callable[..., object], *arguments: object) -> str | None:
    """Call a function in a process whose n-th change of a folder fails, as on a full disk. Returns corank's error."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    run(_call_failing, writer, change, function, *arguments)
    error: str | None = reader.recv()
    return error


def _call_failing(pipe: Any, change: int, function: Callable[..., object], *arguments: object) -> None:
    error = None
    try:
        _call_at(change, _fail, function, *arguments)
    except CorankError as raised:
        error = str(raised)
    pipe.send(error)


def _fail(event: str, arguments: tuple[Any, ...]) -> None:
    if event == REQUEST:
        raise arguments[0]("the store refuses")
    if event != "shutil.rmtree":  # it announces itself before it ignores errors
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _call_at(change: int, act: Act, function: Callable[..., object], *arguments: object) -> None:
    changes: list[str] = []

    def note(event: str, arguments_: tuple[Any, ...]) -> None:
        changes.append(event)
        if len(changes) == change:
            act(event, arguments_)

    _before_changes(note)
    function(*arguments)


def _before_changes(act: Act) -> None:
    """Let something happen before each change of this process. It cannot be taken back."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITES):
            act(event, arguments)

    sys.addaudithook(hook)


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

"""Several processes of one command on this machine, by torch's elastic agent."""

import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from corank.core.errors import DistributedError, OtherRankError
from corank.distributed.launch_environment import STARTED_HERE, WORLD_SIZE

AGENT = "torch.distributed.elastic"
"""What the names of the agent's loggers begin with."""
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def launch(arguments: Sequence[str], workers: int, max_restarts: int = 0) -> None:
    """Run `corank ARGUMENTS` in several processes that train together, until all have ended.

    The processes meet in `join_ranks`. They print their own messages. SIGTERM and Ctrl-C end all of them.

    Args:
        arguments: of the command line.
        workers: processes to start; the cores are divided among them, unless OMP_NUM_THREADS is set.
        max_restarts: how often all are started again after one of them has died.

    Raises:
        DistributedError: this process is one of a launch itself, or a worker was killed; the message names it.
        OtherRankError: a worker has failed, and reported it.
        SystemExit: a signal ended the launch.

    Example:
        launch(["train", "shop/config.yaml"], workers=2, max_restarts=1)
    """
    if WORLD_SIZE in os.environ:
        raise DistributedError(f"--workers: {WORLD_SIZE} is set; leave --workers out under torchrun")
    with tempfile.TemporaryDirectory() as logs, _environment(workers), _signals():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=workers,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=max_restarts,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "corank", *arguments)
        except ChildFailedError as error:
            raise _describe(error.failures, max_restarts) from None
        except SignalException as ended:
            sys.exit(128 + ended.sigval)


def _describe(failures: dict[int, ProcessFailure], max_restarts: int) -> DistributedError | OtherRankError:
    """The error of a launch whose workers have failed: only the death of a worker is not reported by itself."""
    rank, failure = min(failures.items(), key=lambda item: (item[1].timestamp, item[0]))
    if failure.exitcode >= 0:
        return OtherRankError(f"rank {rank} ended with exit status {failure.exitcode}")
    again = f" after {max_restarts} restarts" if max_restarts else ""
    advice = "look for lack of memory" if failure.exitcode == -signal.SIGKILL else "look at its output"
    return DistributedError(
        f"rank {rank} (process {failure.pid}) was ended by {signal.Signals(-failure.exitcode).name}{again}; {advice}. "
        "--max-restarts goes on by itself from the last checkpoint, --resume by hand"
    )


@contextmanager
def _environment(workers: int) -> Iterator[None]:
    """The environment of the workers: each has its share of the cores, and they meet on this machine alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    added = {"OMP_NUM_THREADS": str(max(1, cores // workers)), STARTED_HERE: "1"}
    if sys.platform == "linux":
        added["GLOO_SOCKET_IFNAME"] = "lo"
    added = {name: value for name, value in added.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _signals() -> Iterator[None]:
    """Put back the signals that the agent handles, and keep its own lines from the output."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith(AGENT)]
    levels = [logger.level for logger in loggers]
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)

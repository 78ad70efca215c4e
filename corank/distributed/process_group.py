"""The group of processes that a launcher started: joined at the beginning of a training, left at its end."""

import ctypes
import itertools
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from corank.core.errors import CorankError, DistributedError, OtherRankError
from corank.distributed.launch_environment import LaunchEnvironment
from corank.distributed.ranks import LAST_WORD, REFUSED, CollectiveLog, Ranks, name_ranks

TIMEOUT = 600.0
"""Seconds that a rank waits for the others in a collective, by default."""

_groups = itertools.count()
"""Numbers the groups that this process joins one after another."""


@contextmanager
def join_ranks(timeout: float | None = None) -> Iterator[Ranks]:
    """Join the processes of the launch that the environment describes; without one, this process is alone.

    Tensors on the CPU are exchanged by gloo, those on GPUs by NCCL. The group is left at the end of the block, however
    it ends; an error is sent to the other ranks, so that they end, too, and is reported by one rank.

    Args:
        timeout: seconds that a rank waits for the others in a collective, and for their start; TIMEOUT unless given.

    Raises:
        DistributedError: the environment is invalid, or ranks do not arrive; the message names them.
        OtherRankError: another rank has failed and reports it.

    Example:
        with join_ranks() as ranks:
            ranks.sum(torch.ones(3), "example")
    """
    launch = LaunchEnvironment.read()
    if launch is None or (launch.world == 1 and not launch.has_agent):
        if timeout is not None:
            raise DistributedError("--timeout: this process trains alone and waits for none; leave it out")
        yield Ranks()
        return
    timeout = timeout or TIMEOUT
    _end_with_agent(launch)
    store = _connect(launch, timeout)
    log = CollectiveLog(
        store, f"corank/restart{launch.restarts}/group{next(_groups)}", launch.rank, launch.world, timeout
    )
    ranks = Ranks(launch.rank, launch.world, log=log, restarts=launch.restarts)
    try:
        if log.remembers(REFUSED):
            raise OtherRankError("an earlier start ended by a mistake of the user, and reported it")
        if launch.world > 1:
            _init_group(launch, log, timeout)
        yield ranks
        ranks.wait("end")
    except BaseException as error:
        _tell(error, log)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _tell(error: BaseException, log: CollectiveLog) -> None:
    """Report an error to the other ranks. Raises OtherRankError if another rank reports it."""
    if isinstance(error, OtherRankError):
        time.sleep(LAST_WORD)  # an agent ends all as soon as one has ended
        return
    if isinstance(error, DistributedError):
        return
    try:
        if log.rank and isinstance(error, CorankError):
            error.args = (f"rank {log.rank}: {error}",)
        if isinstance(error, CorankError):
            log.remember(REFUSED)
        log.report(error)
    except OtherRankError:
        time.sleep(LAST_WORD)
        raise
    except RuntimeError:
        return  # the store is gone with its launcher


def _connect(launch: LaunchEnvironment, timeout: float) -> Store:
    """Open the store where the ranks meet: the agent's, or one that rank 0 keeps."""
    try:
        return TCPStore(
            launch.address,
            launch.port,
            is_master=not launch.has_agent and launch.rank == 0,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"rank {launch.rank}: cannot reach the launch's store at {launch.address}:{launch.port} "
            f"({str(error).partition('. ')[0][:200]}); MASTER_ADDR and MASTER_PORT must be those of the first machine, "
            "and the port must be open to the others"
        ) from None


def _init_group(launch: LaunchEnvironment, log: CollectiveLog, timeout: float) -> None:
    log.announce()
    log.what = "start"
    gpu = _take_gpu(launch)
    try:
        dist.init_process_group(
            "gloo" if gpu is None else "cpu:gloo,cuda:nccl",
            store=log.store,
            rank=launch.rank,
            world_size=launch.world,
            timeout=timedelta(seconds=timeout),
            device_id=gpu,
        )
    except RuntimeError as error:
        log.raise_reported()  # by a rank that had met the others, and ended before this one had
        absent = log.absent()
        if launch.rank != min(set(range(launch.world)) - {*absent}, default=launch.rank):
            raise OtherRankError(f"{name_ranks(absent)} did not start") from None
        who = f"{name_ranks(absent)} did not start" if absent else str(error).partition("\n")[0][:200]
        raise DistributedError(
            f"rank {launch.rank}: the {launch.world} processes did not meet at {launch.address}:{launch.port} within "
            f"{timeout:g} s: {who}; start all of them, each with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE"
        ) from None


def _take_gpu(launch: LaunchEnvironment) -> torch.device | None:
    """Make the GPU of this process's local rank the current one; None on a machine without GPUs."""
    if not torch.cuda.is_available():
        return None
    if launch.local_rank >= (count := torch.cuda.device_count()):
        raise DistributedError(
            f"rank {launch.rank}: its local rank is {launch.local_rank}, and the machine has {count} GPUs; start at "
            f'most {count} processes a machine, or set CUDA_VISIBLE_DEVICES="" to train on the CPU'
        )
    torch.cuda.set_device(launch.local_rank)
    return torch.device("cuda", launch.local_rank)


def _end_with_agent(launch: LaunchEnvironment) -> None:
    """Have Linux end this process with its agent: a killed agent would leave it behind."""
    if launch.has_agent and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)

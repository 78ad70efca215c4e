"""Batches on the device that trains: for a GPU one thread reads, prepares and pins the next while a step computes.

Ranks know the next batch before they compute one, to ask each other for what it needs.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from corank.batches.batch import Batch


def move_batches(
    batches: Iterator[Batch], device: torch.device, prepare: Callable[[Batch], None], ahead: bool = True
) -> Iterator[Batch]:
    """Yield batches on a device.

    Args:
        batches: on the host.
        device: the CPU, where nothing is made ahead, since it would take from the step what it saves; or another.
        prepare: makes what steps read of a batch alone (`Batch.once`), on the host.
        ahead: whether a thread may read; not if reading is a collective, whose place is between those of steps.
    """
    if device.type == "cpu":
        yield from batches
        return

    on_gpu = device.type == "cuda"

    def read() -> Batch | None:
        batch = next(batches, None)
        if batch is None:
            return None
        prepare(batch)
        return batch.pin() if on_gpu else batch

    # the current GPU is a thread's own: pinning would open the first one's in every rank
    choose = partial(torch.cuda.set_device, torch.cuda.current_device()) if on_gpu else None
    with ThreadPoolExecutor(1, initializer=choose) as thread:
        coming = thread.submit(read)
        while (batch := coming.result()) is not None:
            if ahead:
                coming = thread.submit(read)
            yield batch.to(device)
            if not ahead:
                coming = thread.submit(read)


def pair_batches(batches: Iterator[Batch], ahead: bool) -> Iterator[tuple[Batch, Batch | None]]:
    """Yield each batch and the one after it, None after the last.

    Args:
        batches: of an epoch.
        ahead: whether to read the following one before a batch is yielded; else it is always None.
    """
    batch = next(batches, None)
    while batch is not None:
        following = next(batches, None) if ahead else None
        yield batch, following
        batch = following if ahead else next(batches, None)

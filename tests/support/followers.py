"""Followers in processes of their own, which end by themselves, or are killed at a step."""

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.support.waiting import POLL


def follow_items(
    source: str, store: str, cache: Path, properties: Path, group: str, batch: int, kill: int, after: bool
) -> None:
    """Follow items until the process ends, in batches of so many messages.

    Args:
        source: the topic.
        store: the store.
        cache: of bundles.
        properties: of the client.
        group: of followers.
        batch: messages a change.
        kill: the change at which the process kills itself, counted from 1; 0 for none.
        after: whether it is killed after the change rather than before.
    """
    from corank_continual import follow as streams
    from corank_continual.streams import topic
    from corank_continual.streams.store import ItemSink
    from corank_serve.store.base import STORES

    os.environ["CORANK_KAFKA_PROPERTIES"] = str(properties)
    vars(streams)["CACHE"] = cache
    topic.BATCH_MESSAGES = topic.STEP_MESSAGES = batch
    backend: Any = STORES["lmdb"]
    swap: Callable[..., bool] = backend.swap
    done = 0

    def counted(*arguments: Any) -> bool:
        nonlocal done
        done += 1
        if done == kill and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        swapped = swap(*arguments)
        if done == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return swapped

    backend.swap = counted
    streams._follow_store(ItemSink, source, store, group, None, None, lambda line: None)


def follow_log(source: str, folder: Path, properties: Path, files: int) -> None:
    """Follow candidates until there are so many files."""
    from corank_continual import follow as streams
    from corank_continual.streams import topic

    os.environ["CORANK_KAFKA_PROPERTIES"] = str(properties)
    topic.BATCH_MESSAGES = topic.STEP_MESSAGES = 7
    stop = threading.Event()

    def watch() -> None:
        while len([*folder.glob("*.parquet")]) < files:
            time.sleep(POLL)
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    period, wait = timedelta(minutes=10), timedelta(minutes=1)
    streams._follow_log(source, folder, None, period, wait, None, None, lambda line: None, stop)

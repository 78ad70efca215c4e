"""Fetch a store's version in a process of its own, with low priority, while the service answers requests.

Decoding a million records takes seconds of a core. The process rests as long as it has worked, block by block, and its
priority is low, but not the lowest: that would be a 70th of a core that others want, and a swap would take minutes.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from corank.core.registry import load_environment_plugins
from corank.serving.store.base import open_store
from corank.serving.store.fetch import fetch_bundle

NICENESS = 10
"""A ninth of a core that a worker wants, too: a swap's time is bounded on a core that is never idle."""
WORK = 0.5
"""Share of the time in which it works."""


def fetch_in_subprocess(url: str, cache: Path, version: str) -> bool:
    """Fetch a version into a cache; False if that failed, for a reason that the next fetch reports."""
    # by standard input, since others can read arguments, and a URL may hold a password
    arguments = json.dumps([url, str(cache), version])
    command = ["nice", "-n", str(NICENESS), sys.executable, "-m", "corank.serving.store.fetch_process"]
    try:
        done = subprocess.run(command, input=arguments, text=True, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def fetch_named_version() -> None:
    """Fetch the version that standard input names, with the plug-ins of the environment."""
    with suppress(AttributeError, OSError):  # Linux: it never takes the core from a worker that wakes up
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    load_environment_plugins()
    url, cache, version = json.load(sys.stdin)
    fetch_bundle(open_store(url), version, Path(cache), pause=WorkPacer().pause)


class WorkPacer:
    """Sleeps so that a process works a share of the time only."""

    def __init__(self) -> None:
        self._worked = time.process_time()

    def pause(self) -> None:
        """Sleep in proportion to the processor time since the last call."""
        worked = time.process_time()
        time.sleep((worked - self._worked) * (1 - WORK) / WORK)
        self._worked = worked


if __name__ == "__main__":
    fetch_named_version()

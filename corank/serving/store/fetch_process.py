"""Fetch a store's version in a process of its own, with low priority, while the service answers requests.

Decoding a million records takes seconds of a core and a gigabyte, neither of which a service can spare.
"""

import json
import subprocess
import sys
from pathlib import Path

from corank.core.registry import load_environment_plugins
from corank.serving.store.base import open_store
from corank.serving.store.fetch import fetch_bundle

NICENESS = 19
"""The lowest priority."""


def fetch_in_subprocess(url: str, cache: Path, version: str) -> bool:
    """Fetch a version into a cache; False if that failed, for a reason that the next fetch reports."""
    # by standard input, since others can read arguments, and a URL may hold a password
    given = json.dumps([url, str(cache), version])
    command = ["nice", "-n", str(NICENESS), sys.executable, "-m", "corank.serving.store.fetch_process"]
    try:
        done = subprocess.run(command, input=given, text=True, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def fetch_named_version() -> None:
    """Fetch the version that standard input names, with the plug-ins of the environment."""
    load_environment_plugins()
    url, cache, version = json.load(sys.stdin)
    fetch_bundle(open_store(url), version, Path(cache))


if __name__ == "__main__":
    fetch_named_version()

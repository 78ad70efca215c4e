"""Fetches a store's version in a process of its own, which gives way to those who serve.

To decode a million records takes seconds of a core and a gigabyte, neither of which a service has to spare.
"""

import json
import subprocess
import sys
from pathlib import Path

from corank.core.registry import load_environment_plugins
from corank.serving.store.base import open_store
from corank.serving.store.fetch import fetch_bundle

GIVES_WAY = 19
"""Entirely: what a core has left over is enough."""


def fetch_in_subprocess(url: str, cache: Path, version: str) -> bool:
    """Whether `cache` has the version now, proven; what was wrong, if it has not, is told by who fetches it next."""
    given = json.dumps([url, str(cache), version])  # not an argument: an address may hold a password
    command = ["nice", "-n", str(GIVES_WAY), sys.executable, "-m", "corank.serving.store.fetch_process"]
    try:
        done = subprocess.run(command, input=given, text=True, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def main() -> None:
    """Fetch the version that standard input names, with the plug-ins of the environment."""
    load_environment_plugins()
    url, cache, version = json.load(sys.stdin)
    fetch_bundle(open_store(url), version, Path(cache))


if __name__ == "__main__":
    main()

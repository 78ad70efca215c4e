"""The service, called from Python."""

import asyncio
from typing import Any

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.core.storage.object_url import PathOrUrl
from corank.core.types import Report
from corank.engine.cores import count_cores
from corank.serving.bundle_cache import CACHE
from corank.serving.http.serve_settings import ServeSettings
from corank.serving.http.server import run_service


def is_loop_running() -> bool:
    """Whether this thread runs an event loop, such as that of a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def serve(source: PathOrUrl, report: Report = lambda line: None, **settings: Any) -> None:
    """Rank over HTTP until the process is told to end: by Ctrl-C, or the kernel's stop button.

    Args:
        source: a bundle's folder or its URL, or the address of a store, whose live version is followed.
        report: takes a line about the address, each new version, and errors.
        settings: the options of `corank serve`, with underscores: `host`, `port`, `workers`, `log`, `tokens`, … One
            worker serves in this process; without `workers` there is one a core.

    Raises ConfigError for a setting that is none, and CorankError if there is nothing to serve, the address is taken,
    or a folder cannot be written.

    Example:
        >>> corank.serve("bundle", port=8000, worker=1)
        Traceback (most recent call last):
        corank.core.errors.ConfigError: corank serve: (top level): unknown key 'worker'; did you mean 'workers'?
    """
    if is_loop_running():
        raise ConfigError(
            "corank.serve: an event loop runs in this thread, as in a notebook; call it in one of its own: "
            "threading.Thread(target=corank.serve, args=[SOURCE], kwargs={'workers': 1}, daemon=True).start()"
        )
    defaults: dict[str, Any] = {"workers": count_cores(), "cache": CACHE}
    run_service(
        validate(ServeSettings, defaults | settings | {"source": str(source)}, "corank serve"), report
    )

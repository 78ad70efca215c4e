"""A plug-in by which the second process of a launch's first start is killed as it writes its third checkpoint."""

import os
import signal
import sys
from typing import Any

_written = 0


def _kill_at_third(event: str, arguments: tuple[Any, ...]) -> None:
    global _written
    if event == "os.rename" and os.fspath(arguments[1]).endswith("shard-00001.json"):
        _written += 1
        if _written == 3:
            os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("RANK") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
    sys.addaudithook(_kill_at_third)

"""The bundle of a run, for a service that is started with the run: exported once, by a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from corank.core.errors import CorankError

if TYPE_CHECKING:
    from corank.core.types import Report


RUN_FILE, BUNDLE = "run.json", "bundle"
"""Of a run; its modules would load what the parent of a service does not need."""


def locate_bundle(source: str, report: "Report") -> str:
    """Return the bundle to serve: RUN/bundle if the source is the folder of a run, else the source itself.

    A run's bundle is exported if there is none. It is made by another process, since a service loads no torch.

    Args:
        source: a bundle's folder or URL, a store, or the folder of a finished run.
        report: takes a line about the export.

    Raises:
        CorankError: the run cannot be exported.
    """
    run = Path(source)
    if not (run / RUN_FILE).is_file():
        return source
    bundle = run / BUNDLE
    if not (bundle / "manifest.json").is_file():
        report(f"{run}: exporting its bundle to {bundle}")
        command = [sys.executable, "-m", "corank", "export", str(run), str(bundle)]
        done = subprocess.run(
            command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        if done.returncode:
            message = next(
                (line for line in done.stderr.splitlines() if line.startswith("error: ")), done.stderr
            )
            raise CorankError(message.removeprefix("error: "))
    return str(bundle)

"""A reader of Arrow messages that kills itself at some of them, as one does at damage that no check finds."""

import os
import signal
import sys

from corank_continual.streams import arrow_reader

DEADLY = "deadly"
"""A message that has this anywhere kills the reader."""
COMMAND = (sys.executable, "-m", "tests.support.mortal_reader")


def _find_fault(value: bytes) -> str:
    if DEADLY.encode() in value:
        os.kill(os.getpid(), signal.SIGKILL)
    return FIND_FAULT(value)


if __name__ == "__main__":
    FIND_FAULT, arrow_reader.find_fault = arrow_reader.find_fault, _find_fault
    arrow_reader.main()

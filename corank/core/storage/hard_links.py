"""A file that never changes, under one more name: no copy where the file system can do without."""

import os
import shutil
from pathlib import Path


def link_file(source: Path, target: Path) -> None:
    """Give a file another name, or copy it where that is not possible; the folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

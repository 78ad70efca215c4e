"""Writing a bundle that lies in object storage: into a working folder, which is published at the end."""

import shutil
from collections.abc import Callable
from pathlib import Path

from corank.bundle.bundle import Bundle, current_content, is_content_name
from corank.bundle.manifest import BUNDLE
from corank.core.storage.local_copy import write_folder
from corank.core.storage.object_url import Location


def replace_bundle(location: Location, write: Callable[[Path], Bundle], reads: bool) -> Bundle:
    """Replace a bundle by what a function writes.

    Args:
        location: the bundle's folder, or its URL.
        write: writes a bundle into a folder, which holds the present one if `reads`, otherwise its manifest alone.
        reads: whether it reads the present bundle.

    Raises BusyError, StorageError, and what the function raises; the bundle is left as it is then.
    """
    if isinstance(location, Path):
        return write(location)
    with write_folder(location, BUNDLE, lambda name: reads or name == "manifest.json", keep=True) as folder:
        write(folder)
        content = current_content(folder)
        for earlier in folder.iterdir():
            if is_content_name(earlier.name) and earlier.name != content:
                shutil.rmtree(earlier)
    return Bundle.open(location)

"""Folders of packed data that continue others: one each, so that none replaces another.

packed/shop/                                       packed from all rows
packed/shop.continued/2026-04-28-4f0c9a1b2c3d4e5f/ continues data whose training ended on that day
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from corank.core.errors import DataError
from corank.core.files import atomic_file
from corank.core.time import day_numbers
from corank.data.pack_manifest import (
    MANIFEST,
    PackManifest,
    fingerprint,
    packed_settings,
    read_pack_manifest,
)
from corank.data.state.earlier_pack import EarlierPack
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

CONTINUED = ".continued"
"""Suffix of the name of the folder of folders, next to the first packed data."""
MARK = "continued.json"
"""A file of packed data that others continue: they hold a fixed past, and are not compared with files."""


def continued_folder(
    root: Path, data: DataSettings, schema: Schema, base: Path, earlier: EarlierPack
) -> Path:
    """Return the folder of packed data that continue others: named by the day from which they do, and a hash.

    Args:
        root: the folder of a config's first packed data.
        data: the config's settings of the tables.
        schema: the config's features.
        base: the folder that the tables' paths are relative to.
        earlier: the packed data to continue.

    Raises DataError, StorageError if an input file is missing.
    """
    number = int(day_numbers(np.array([earlier.through]), data.timezone)[0])
    day = np.datetime64(number, "D")
    mark = fingerprint(data, schema, base, earlier.origin)
    return root.with_name(f"{root.name}{CONTINUED}") / f"{day}-{mark[:16]}"


def list_continued(root: Path) -> Iterator[tuple[Path, PackManifest]]:
    """List the packed data of a config's folder that continue others, and can be read."""
    for folder in sorted(root.with_name(f"{root.name}{CONTINUED}").glob("[!.]*")):
        with suppress(DataError):
            yield folder, read_pack_manifest(folder)


def find_continued(
    root: Path, data: DataSettings, schema: Schema, mark: str | None = None
) -> tuple[Path, PackManifest] | None:
    """Find packed data of some settings and features that continue others; None if there are none.

    Args:
        root: the folder of a config's first packed data.
        data: the settings of the tables.
        schema: the features.
        mark: the fingerprint of those to prefer; otherwise the newest are returned.
    """
    wanted = packed_settings(schema.features)
    same = [
        pack
        for pack in list_continued(root)
        if pack[1].data == data and packed_settings(pack[1].features) == wanted
    ]
    return max(same, key=lambda f: (f[1].fingerprint == mark, written_at(f[0])), default=None)


def written_at(folder: Path) -> int:
    """Return when packed data were written, in ns; 0 if there are none."""
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def mark_continued(folder: Path) -> None:
    """Mark packed data that others continue, unless the folder cannot be written."""
    if not (folder / MARK).exists():
        with suppress(OSError), atomic_file(folder / MARK) as partial:
            partial.write_text("{}\n", encoding="utf-8")


def is_past(folder: Path) -> bool:
    """Whether others continue packed data."""
    return (folder / MARK).is_file()

"""Removal of packed data of features that nothing uses any more."""

from collections.abc import Collection, Mapping
from pathlib import Path

from corank.core.errors import DataError
from corank.core.files import remove_abandoned, remove_folder
from corank.core.locks import WriteLock
from corank.core.types import Report
from corank.data.pack_manifest import read_pack_manifest
from corank.data.reuse.feature_sets import LAYER, SETS, list_packs
from corank.features.feature_kind import FeatureKind

Features = Mapping[str, FeatureKind]


def prune_sets(
    root: Path, own: Features, others: Collection[Features], kept: Collection[Path], report: Report
) -> int:
    """Remove the sets of packed data that are of no features in use, and what killed packings left.

    Args:
        root: the folder of the packed data; what lies in it directly stays.
        own: the features of a config; what is removed is described by how it differs.
        others: other features that are in use.
        kept: folders that are in use, whatever they hold; a set stays if one is it or lies within it.
        report: receives a line about each set that is removed, and one about all.

    Returns how many bytes were freed. Raises BusyError, DataError if a set cannot be removed.
    """
    freed = count = 0
    try:
        with WriteLock.of_replacement(root, "pack"):
            remove_abandoned(root / SETS, "*")
            found = list_packs(root)[1:]
            for folder in found:
                features = _read_features(folder)
                named = any(path.is_relative_to(folder) for path in kept)
                if named or features == own or features in others:
                    continue
                size = _own_bytes(folder)
                remove_folder(folder)
                freed, count = freed + size, count + 1
                report(f"removed {folder} ({_describe(features, own)}): {size:,} bytes")
    except OSError as error:
        raise DataError(f"{root}: cannot be pruned: {error}") from None
    report(f"removed {count} of {len(found)} other sets of features: {freed:,} bytes freed")
    return freed


def _read_features(folder: Path) -> Features | None:
    """The features of a set; None of one that cannot be opened, or was never completed."""
    try:
        return None if folder.name.startswith(LAYER) else read_pack_manifest(folder).features
    except DataError:
        return None


def _own_bytes(folder: Path) -> int:
    """The bytes on disk that go with a folder: of files of which all names lie in it."""
    names, sizes = dict[int, int](), dict[int, int]()
    for path in folder.rglob("*"):
        if path.is_file():
            stat = path.lstat()
            names[stat.st_ino] = names.get(stat.st_ino, 0) + 1
            sizes[stat.st_ino] = stat.st_size if names[stat.st_ino] == stat.st_nlink else 0
    return sum(sizes.values())


def _describe(features: Features | None, own: Features) -> str:
    """Say how a set differs from a config."""
    if features is None:
        return "damaged, or never completed"
    both = features.keys() & own.keys()
    parts = {
        "with": sorted(features.keys() - both),
        "without": sorted(own.keys() - both),
        "other settings of": sorted(name for name in both if features[name] != own[name]),
    }
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names)

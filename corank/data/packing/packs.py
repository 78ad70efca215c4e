"""The folders of one log's packed data: which one a config reads, and where another is written.

packed/shop/                                       what was packed first
packed/shop/sets/9a1b2c3d4e5f6071/                 the same rows with other features
packed/shop.continued/2026-04-28-4f0c9a1b2c3d4e5f/ later rows only: it continues data whose training ended on that day

A folder belongs to a fingerprint of what packing reads. Configs that differ in what only networks, losses and training
read share it. None replaces another: each run keeps the data that it was trained on, whatever is packed later.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corank.core.artifact import MANIFEST, Artifact, ArtifactWriter, open_folder, read_manifest
from corank.core.errors import DataError
from corank.core.files import atomic_file
from corank.core.lazy import lazy
from corank.core.objects import Location
from corank.core.reports import Report
from corank.core.time import day_numbers
from corank.data.packed.dataset import PackedDataset, hash_encoders
from corank.data.packed.inputs import find_versions, fingerprint, hash_versions
from corank.data.packed.manifest import MARK, PACK_AGAIN, SETS, PackManifest, list_packs, packed_settings
from corank.data.packing.earlier_pack import EarlierPack
from corank.engine.base import Engine
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

if TYPE_CHECKING:
    from corank.data.packing import pack as packing
else:  # what packs: who only reads packed data needs none of it
    packing = lazy("corank.data.packing.pack")

CONTINUED = ".continued"
"""Suffix of the name of the folder of folders, next to the first packed data."""


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


def list_continued(root: Path) -> list[Path]:
    """List the folders of packed data that continue those of a config's folder, or others that do."""
    return sorted(root.with_name(f"{root.name}{CONTINUED}").glob("[!.]*"))


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
        for pack in _read_manifests(list_continued(root))
        if pack[1].data == data and packed_settings(pack[1].features) == wanted
    ]
    return max(same, key=lambda f: (f[1].fingerprint == mark, written_at(f[0])), default=None)


def written_at(folder: Path) -> int:
    """Return when packed data were written, in ns; 0 if there are none."""
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def mark_continued(location: str) -> None:
    """Mark packed data that others continue, unless they lie in object storage or cannot be written."""
    folder = Path(location)
    if folder.is_dir() and not (folder / MARK).exists():
        with suppress(OSError), atomic_file(folder / MARK) as partial:
            partial.write_text("{}\n", encoding="utf-8")


def is_past(folder: Path) -> bool:
    """Whether others continue packed data."""
    return (folder / MARK).is_file()


Past = Callable[[Path], bool]
"""Says of a folder of packed data that they need not be of the files as they are now."""


def _read_manifests(folders: Iterable[Path]) -> Iterator[tuple[Path, PackManifest]]:
    """Read the manifests of folders, of those that can be read."""
    for folder in folders:
        with suppress(DataError):
            yield folder, read_manifest(folder, PackManifest)


def find_staleness(manifest: PackManifest, data: DataSettings, schema: Schema, base: Path) -> str | None:
    """Say why packed data are of other settings under `data`, or of other files, than a config's; None if not.

    Data that continue others hold a fixed past, and are not compared with files.
    Raises DataError, StorageError if an input file is missing.
    """
    if manifest.data != data:
        return "settings under data differ"
    if manifest.continued is None:
        for key, version in hash_versions(find_versions(data, schema.features, base)).items():
            if manifest.inputs.get(key, version) != version:
                return f"{key}: other files, or changed since"
    return None


def open_features(
    root: Path, data: DataSettings, schema: Schema, base: Path, past: Past = lambda folder: False
) -> PackedDataset:
    """Open the packed data of a config's features, in a folder or its sets.

    Args:
        root: the folder.
        data: the config's settings of the tables.
        schema: the config's features.
        base: the folder that the tables' paths are relative to.
        past: returns whether the settings and features of a folder's data are enough, whatever became of
            the files.

    Raises DataError if there are none, they are damaged, or they are of other settings, features or files.
    """
    wanted, reason = packed_settings(schema.features), None
    first = read_manifest(root, PackManifest)
    for folder, manifest in _read_manifests(list_packs(root)):
        if packed_settings(manifest.features) == wanted:
            known = manifest.data == data and past(folder)
            reason = None if known else find_staleness(manifest, data, schema, base)
            if reason is None:
                return PackedDataset.open(folder, expect=manifest.fingerprint).with_features(schema)
    if reason := reason or find_staleness(first, data, schema, base):
        raise DataError(f"{root}: packed from another config or other files: {PACK_AGAIN} ({reason})")
    raise DataError(f"{root}: packed with other features: run `corank pack`, which adds these")


def pack_features(
    data: DataSettings,
    schema: Schema,
    base: Path,
    root: Path,
    report: Report = lambda line: None,
    engine: Engine | None = None,
) -> PackedDataset:
    """Pack the tables of a config, unless that is done already. See `pack_log`.

    Args:
        root: the folder of the packed data. It is replaced if its data are of other settings or files, unless other
            packed data continue them.
    """
    with suppress(DataError):
        packed = open_features(root, data, schema, base)
        try:
            packed.verify()
        except DataError as damage:
            report(f"packing again: {damage}")
        else:
            return packed
    if not _is_current(root, data, schema, base):
        if any(map(is_past, list_packs(root))):
            raise DataError(
                f"{root}: other packed data go on from these, and runs may be of them; they would be replaced: go on "
                "from them with `corank pack --from`, or name another folder as `packed`"
            )
        return packing.pack_log(data, schema, base, root, report, engine)
    with ArtifactWriter.lock(root, PackManifest, "pack"):
        folder = root / SETS / fingerprint(data, schema, base)[:16]
        return packing.pack_log(data, schema, base, folder, report, engine)


def _is_current(root: Path, data: DataSettings, schema: Schema, base: Path) -> bool:
    """Whether packed data are whole, and of the settings and files of a config."""
    try:
        packed = PackedDataset.open(root)
        packed.verify()
    except DataError:
        return False
    manifest = packed.manifest
    return manifest.continued is None and not find_staleness(manifest, data, schema, base)


def open_with_features(location: Location, schema: Schema) -> PackedDataset:
    """Open packed data that have the features of a schema, seen with these alone, whatever the log has become since.

    Raises DataError, which names the features that are missing; StorageError.
    """
    first = PackedDataset.open(location)
    missing = _find_missing(first.manifest, schema)
    if not missing:
        return first.with_features(schema)
    for folder, manifest in _read_manifests(list_packs(location)) if isinstance(location, Path) else ():
        if manifest.is_of_log(first.manifest) and not _find_missing(manifest, schema):
            return PackedDataset.open(folder).with_features(schema)
    raise DataError(
        f"{location}: lacks features of the run, or has them with other settings: {', '.join(missing)}; name "
        "packed data that have them by --on"
    )


def _find_missing(manifest: PackManifest, schema: Schema) -> list[str]:
    """Name the features that packed data lack, or have with other settings."""
    there = packed_settings(manifest.features)
    return [
        name for name, settings in packed_settings(schema.features).items() if there.get(name) != settings
    ]


def open_trained(location: Location, data: DataSettings | None, codes: str) -> PackedDataset:
    """Open the packed data that a model was trained on. They need not be those of the files as they are now.

    Args:
        location: of packed data: a folder, with its sets of features, or a URL.
        data: the settings of the model's tables, which distinguish packed data with the same encoders; None for any.
        codes: the hash of the model's encoders.

    Raises DataError if they were removed, StorageError.
    """
    if isinstance(location, Path):
        for opened in _open_encoded(location, codes):
            if data is None or opened.manifest.data == data:
                return PackedDataset.open(opened.folder.parent, expect=opened.manifest.fingerprint)
    else:
        packed = PackedDataset.open(location)
        if packed.codes == codes and (data is None or packed.data == data):
            return packed
    raise DataError(
        f"{location}: holds no more the packed data that the run was trained on: they were packed anew, and a code "
        "means another value now; pack new days into a folder of their own by `packed`"
    )


def _open_encoded(root: Path, codes: str) -> Iterator[Artifact[PackManifest]]:
    """Open the packed data of a folder, and those that continue it, whose encoders have a hash."""
    for folder in [*list_packs(root), *list_continued(root)]:
        with suppress(OSError, DataError):
            opened = open_folder(folder, PackManifest, checksums=False)
            if hash_encoders(opened.folder) == codes:
                yield opened

"""Packed data of one log for several sets of features: a folder for the first, and within it `sets/` for others.

A set is a complete folder of packed data, of which every file that is the same is a link to one that was there before.
So each run keeps the data that it was trained on, whatever set is packed later.
"""

import filecmp
import glob
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from corank.core.errors import DataError
from corank.core.files import atomic_folder, remove_abandoned, restore_folder
from corank.core.locks import WriteLock
from corank.core.types import Report
from corank.data.dataset import PackedDataset
from corank.data.pack_manifest import (
    PACK_AGAIN,
    PackManifest,
    fingerprint,
    read_pack_manifest,
)
from corank.data.packing.pack import pack_log
from corank.data.reuse.assemble import assemble_pack, is_of_features
from corank.data.reuse.donor import Donor, FeatureSelection
from corank.data.reuse.feature_keys import hash_features, reduce_schema
from corank.data.reuse.inputs import find_change, find_versions, hash_versions
from corank.data.state.continued_packs import is_past
from corank.engine.base import Engine
from corank.engine.in_line import InLineEngine
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

SETS = "sets"
"""The folder within packed data that holds those of other features."""
LAYER = "layer-"
"""How the name of a folder begins that holds what a set lacks, until the set is assembled."""


Past = Callable[[Path], bool]
"""Says of a folder of packed data that they need not be of the files as they are now."""


def compare_files(folder: Path) -> bool:
    """Say that packed data must be of the files as they are now."""
    return False


def set_folder(root: Path, schema: Schema) -> Path:
    """Return where packed data of other features lie than those of the folder `root`."""
    return root / SETS / hash_features(schema)[:16]


def list_packs(root: Path) -> list[Path]:
    """List the folders of packed data of one log: the first, then its sets."""
    restore_folder(root)
    return [root, *sorted(path for path in (root / SETS).glob("[!.]*") if path.is_dir())]


def find_staleness(
    folder: Path, manifest: PackManifest, data: DataSettings, schema: Schema, base: Path
) -> str | None:
    """Say why packed data are of other settings or files than a config's, as far as it depends on them; None if not.

    Data that go on from others hold a past that is over, and are not compared with files.
    Args:
        folder: of the packed data.
        manifest: of them.
        data: the config's settings of the tables.
        schema: the config's features.
        base: the folder that the tables' paths are relative to.

    Raises DataError, StorageError if an input file is missing.
    """
    if manifest.data != data:
        return "settings under data differ"
    if manifest.continued is not None or manifest.fingerprint == fingerprint(data, schema, base):
        return None
    if manifest.inputs is None:
        return "other files or features"
    return find_change(manifest.inputs, data, manifest.features, schema.features, base, folder)


def open_features(
    root: Path, data: DataSettings, schema: Schema, base: Path, past: Past = compare_files
) -> PackedDataset:
    """Open the packed data of a config's features, in a folder or its sets.

    Args:
        root: the folder.
        data: the config's settings of the tables.
        schema: the config's features.
        base: the folder that the tables' paths are relative to.
        past: says of a folder that it is enough that its data are of these settings and features, whatever became of
            the files.

    Raises DataError if there are none, they are damaged, or they are of other settings, features or files.
    """
    first = read_pack_manifest(root)
    for folder, manifest in _manifests(root):
        if manifest.features == schema.features:
            reason = None
            if manifest.data != data or not past(folder):
                reason = find_staleness(folder, manifest, data, schema, base)
            if reason:
                raise _stale(root, reason)
            return PackedDataset.open(folder, expect=manifest.fingerprint)
    if reason := find_staleness(root, first, data, schema, base):
        raise _stale(root, reason)
    raise DataError(
        f"{root}: packed with other features: run `corank pack`, which keeps those that are the same"
    )


def _stale(root: Path, reason: str) -> DataError:
    return DataError(f"{root}: packed from another config or other files: {PACK_AGAIN} ({reason})")


def _manifests(root: Path) -> Iterator[tuple[Path, PackManifest]]:
    """Read the manifests of a folder and its sets, but for those that cannot be read and what a kill left of a set."""
    for folder in list_packs(root):
        if folder.name.startswith(LAYER) and folder != root:
            continue
        try:
            yield folder, read_pack_manifest(folder)
        except DataError:
            continue


def pack_features(
    data: DataSettings,
    schema: Schema,
    base: Path,
    root: Path,
    report: Report = lambda line: None,
    engine: Engine | None = None,
) -> PackedDataset:
    """Pack the tables of a config; features that the folder holds already are kept. See `pack_log`.

    Args:
        root: the folder of the packed data. It is replaced if its data are of other settings or files, unless other
            packed data go on from them.
    """
    try:
        return open_features(root, data, schema, base)
    except DataError:
        if not _is_current(root, data, schema, base):
            if is_past(root):
                raise DataError(
                    f"{root}: other packed data go on from these, and runs may be of them; they would be replaced: go "
                    "on from them with `corank pack --from`, or name another folder as `packed`"
                ) from None
            return pack_log(data, schema, base, root, report, engine)
    with WriteLock.of_replacement(root, "pack"):
        return pack_reusing(data, schema, base, set_folder(root, schema), list_packs(root), report, engine)


def pack_reusing(
    data: DataSettings,
    schema: Schema,
    base: Path,
    out: Path,
    folders: Iterable[Path],
    report: Report = lambda line: None,
    engine: Engine | None = None,
) -> PackedDataset:
    """Pack the tables of a config into a folder, taking what is the same from packed data of other features.

    Args:
        folders: of the packed data that may be taken from; those of other settings or files are left out.

    Raises as `pack_log` does.
    """
    mark = fingerprint(data, schema, base)
    versions = hash_versions(find_versions(data, schema.features, base))
    selection = FeatureSelection.of(schema, _donors(folders, data, schema, base))
    missing, count = selection.missing, len(schema.features)
    if len(missing) == count:
        return pack_log(data, schema, base, out, report, engine)
    packing = f", packing {len(missing)}: {', '.join(missing)}" if missing else ""
    report(f"kept {count - len(missing)} of {count} features{packing}")
    layer = out.with_name(f"{LAYER}{out.name}")
    if missing:
        reduced = reduce_schema(schema, missing)
        pack_log(data, reduced, base, layer, report, engine)
        donor = Donor.of(layer, read_pack_manifest(layer))
        if not _fits(selection.donors[0], donor):
            shutil.rmtree(layer)
            report("the files changed meanwhile: packing all features")
            return pack_log(data, schema, base, out, report, engine)
        selection = FeatureSelection.of(schema, [*selection.donors, donor])
    with WriteLock.of_replacement(out, "pack"), atomic_folder(out, replace=True) as partial:
        assemble_pack(selection, mark, versions, partial, engine or InLineEngine())
    with WriteLock.of_replacement(layer, "pack"):  # also what killed packings left of it
        remove_abandoned(layer.parent, glob.escape(layer.name))
        shutil.rmtree(layer, ignore_errors=True)
    return PackedDataset.open(out, expect=mark)


def _is_current(root: Path, data: DataSettings, schema: Schema, base: Path) -> bool:
    """Whether packed data are whole, and of the settings and files of a config."""
    try:
        manifest = PackedDataset.open(root).manifest
    except DataError:
        return False
    return manifest.inputs is not None and not find_staleness(root, manifest, data, schema, base)


def _donors(folders: Iterable[Path], data: DataSettings, schema: Schema, base: Path) -> list[Donor]:
    """Describe packed data of which a config's features can be taken."""
    found = []
    for folder in folders:
        try:
            manifest = read_pack_manifest(folder)
            if manifest.inputs is None or find_staleness(folder, manifest, data, schema, base):
                continue
            PackedDataset.open(folder)  # whole
        except DataError:
            continue
        found.append(Donor.of(folder, manifest))
    return found


def _fits(donor: Donor, layer: Donor) -> bool:
    """Whether two packed data differ in features alone, so that their rows are the same."""
    splits = list(donor.manifest.splits)
    names = {name for name in donor.manifest.files if not is_of_features(name, splits)}
    there = {name for name in layer.manifest.files if not is_of_features(name, splits)}
    return names == there and all(
        filecmp.cmp(donor.folder / name, layer.folder / name, shallow=False) for name in names
    )

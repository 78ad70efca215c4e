"""Packed data seen with some of their features, such as those of a run that is judged on data packed for another."""

import shutil
import tempfile
import weakref
from pathlib import Path

from corank.core.errors import DataError
from corank.core.storage.object_url import Location
from corank.data.dataset import PackedDataset
from corank.data.pack_manifest import read_pack_manifest
from corank.data.reuse.assemble import assemble_pack
from corank.data.reuse.donor import Donor, FeatureSelection
from corank.data.reuse.feature_sets import list_packs
from corank.engine.in_line import InLineEngine
from corank.features.schema import Schema


def open_with_features(location: Location, schema: Schema) -> PackedDataset:
    """Open packed data with the features of a schema alone, in its order, whatever the log has become since.

    A folder that has the features among others is seen through a folder of links beside it, which goes when the data
    are no longer used.

    Raises DataError, which names the features that are missing; StorageError.
    """
    if not isinstance(location, Path):
        packed = PackedDataset.open(location)
        if packed.manifest.features != schema.features:
            raise DataError(
                f"{location}: has other features than the run, and data in object storage are opened as they are; "
                "name a copy in a folder of this machine"
            )
        return packed
    first, donors = read_pack_manifest(location), []
    for folder in list_packs(location):
        try:
            manifest = read_pack_manifest(folder)
        except DataError:
            continue
        if manifest.data == first.data:
            if manifest.features == schema.features:
                return PackedDataset.open(folder)
            donors.append(Donor.of(folder, manifest))
    selection = FeatureSelection.of(schema, donors)
    if missing := selection.missing:
        raise DataError(
            f"{location}: lacks features of the run, or has them with other settings: {', '.join(missing)}; name "
            "packed data that have them by --on"
        )
    return _assemble(location, selection)


def _assemble(root: Path, selection: FeatureSelection) -> PackedDataset:
    mark = selection.donors[0].manifest.fingerprint
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.view-", dir=root.parent))
    except OSError as error:
        raise DataError(f"{root.parent}: links to packed features cannot be written: {error}") from None
    try:
        # it is not compared with the files that it was packed from
        assemble_pack(selection, mark, {}, folder, InLineEngine())
        packed = PackedDataset.open(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(packed, shutil.rmtree, folder, ignore_errors=True)
    return packed

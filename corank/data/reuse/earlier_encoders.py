"""The packed data that a model was trained on, and their encoders, whatever became of the log since."""

from collections.abc import Iterator
from pathlib import Path

from corank.core.errors import DataError
from corank.core.storage.object_url import Location
from corank.data.dataset import ENCODERS, PackedDataset, hash_encoders
from corank.data.pack_manifest import read_pack_manifest
from corank.data.reuse.feature_sets import list_packs
from corank.data.state.continued_packs import list_continued
from corank.features.encoders import Encoders
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema


def open_encoders(location: Location, schema: Schema, codes: str) -> Encoders:
    """Open the encoders that gave a model its codes. The data need not be those of the files as they are now.

    Args:
        location: where packed data lie: a folder, with its sets of features, or a URL.
        schema: the model's features.
        codes: the hash of its encoders.

    Raises DataError if they are not there any more, StorageError.
    """
    if not isinstance(location, Path):
        return _open_remote(location, codes).encoders
    for folder in _list_encoded(location, codes):
        return Encoders.load(folder / ENCODERS, schema)
    raise _gone(location)


def open_trained(location: Location, data: DataSettings, codes: str) -> PackedDataset:
    """Open the packed data that a model was trained on. They need not be those of the files as they are now.

    Args:
        location: where packed data lie: a folder, with its sets of features, or a URL.
        data: the settings of the model's tables, which tell packed data with the same encoders apart.
        codes: the hash of the model's encoders.

    Raises DataError if they are not there any more, StorageError.
    """
    if not isinstance(location, Path):
        packed = _open_remote(location, codes)
        if packed.data != data:
            raise _gone(location)
        return packed
    for folder in _list_encoded(location, codes):
        manifest = read_pack_manifest(folder)
        if manifest.data == data:
            return PackedDataset.open(folder, expect=manifest.fingerprint)
    raise _gone(location)


def _open_remote(location: Location, codes: str) -> PackedDataset:
    packed = PackedDataset.open(location)
    if packed.codes != codes:
        raise _gone(location)
    return packed


def _list_encoded(root: Path, codes: str) -> Iterator[Path]:
    """List the packed data of a folder, and those that go on from it, whose encoders have a hash."""
    for folder in [*list_packs(root), *(found for found, _ in list_continued(root))]:
        try:
            if hash_encoders(folder) == codes:
                yield folder
        except OSError:
            continue


def _gone(location: Location) -> DataError:
    return DataError(
        f"{location}: holds no more the packed data that the run was trained on: they were packed anew, and a code "
        "means another value now; pack new days into a folder of their own by `packed`"
    )

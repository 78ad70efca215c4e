"""The encoders of packed data that a model was trained on, whatever became of the log since."""

from pathlib import Path

from corank.core.errors import DataError
from corank.core.storage.object_url import Location
from corank.data.dataset import ENCODERS, PackedDataset, hash_encoders
from corank.data.reuse.feature_sets import list_packs
from corank.data.state.continued_packs import list_continued
from corank.features.encoders import Encoders
from corank.features.schema import Schema


def open_encoders(location: Location, schema: Schema, codes: str) -> Encoders:
    """Open the encoders that gave a model its codes. The data need not be those of the files as they are now.

    Args:
        location: where packed data lie: a folder, with its sets of features, or a URL.
        schema: the model's features.
        codes: the hash of its encoders.

    Raises DataError if they are not there any more, StorageError.
    """
    gone = DataError(
        f"{location}: holds no more the packed data that the run was trained on: they were packed anew, and a code "
        "means another value now; pack new days into a folder of their own by `packed`"
    )
    if not isinstance(location, Path):
        packed = PackedDataset.open(location)
        if packed.codes != codes:
            raise gone
        return packed.encoders
    for folder in [*list_packs(location), *(found for found, _ in list_continued(location))]:
        try:
            if hash_encoders(folder) == codes:
                return Encoders.load(folder / ENCODERS, schema)
        except OSError:
            continue
    raise gone

"""The packed data that a packing continues: named by a folder, a URL, or a run that was trained on them."""

from pathlib import Path

from corank.core.errors import CheckpointError, ConfigError, DataError
from corank.core.storage.object_url import Location, ObjectUrl, parse_location
from corank.data.dataset import PackedDataset
from corank.data.pack_manifest import MANIFEST
from corank.data.state.earlier_pack import EarlierPack
from corank.features.log_schema import DataSettings
from corank.training.checkpoints.run_file import RUN_FILE, RunFile
from corank.training.config_file import from_saved
from corank.training.preparation.packed_data import open_packed


def open_earlier(
    location: str | Path | ObjectUrl | None,
    data: DataSettings,
    fixed: bool = False,
    repack: str | None = None,
) -> EarlierPack | None:
    """Open the packed data to continue; None if there are none.

    Args:
        location: packed data, or a run, which is of packed data.
        data: the settings of the tables.
        fixed: whether vocabularies stay as they are.
        repack: a day from which on rows are packed again: of the packed data, and those that they continue, the
            newest are taken whose training ended before.

    Raises DataError, ConfigError, StorageError.
    """
    if location is None:
        if fixed or repack is not None:
            option = "--fixed" if fixed else "--repack"
            raise ConfigError(f"{option}: is about earlier packed data; name them by --from")
        return None
    since = None if repack is None else data.milliseconds(repack)
    pack = EarlierPack.of(_open(parse_location(location)), fixed)
    while since is not None and pack.through > since:
        continued = pack.manifest.continued
        if continued is None:
            raise DataError(
                f"--repack: {pack.location} is the first packing, and its training ended later; "
                "pack all rows without --from"
            )
        try:
            earlier = _open(parse_location(continued.location))
        except DataError as error:
            raise DataError(
                f"--repack: the packing that {pack.location} goes on from is needed, and is gone ({error}); "
                "pack all rows without --from"
            ) from None
        if earlier.manifest.fingerprint != continued.fingerprint:
            raise DataError(
                f"--repack: {continued.location} was packed anew since {pack.location} went on from it; "
                "pack all rows without --from"
            )
        pack = EarlierPack.of(earlier, fixed)
    return pack


def _open(location: Location) -> PackedDataset:
    """Open packed data, or those of a run. Raises DataError if there are neither."""
    if isinstance(location, ObjectUrl):
        return PackedDataset.open(location)
    if (location / RUN_FILE).is_file():
        return _open_of_run(location)
    if location.exists() and not (location / MANIFEST).is_file():
        raise DataError(
            f"{location}: holds neither packed data nor a run; name one that `corank pack` or `train` wrote"
        )
    return PackedDataset.open(location)


def _open_of_run(folder: Path) -> PackedDataset:
    """Open the packed data of a run, whatever became of their input files."""
    try:
        run_file = RunFile.read(folder)
    except CheckpointError as error:
        raise DataError(f"{error}; or name its packed data instead") from None
    base = run_file.base_of(folder)
    config = from_saved(run_file.config, str(folder / RUN_FILE), base)
    return open_packed(config, base, lambda folder: True, run_file.packed)

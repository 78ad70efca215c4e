"""A config's packed data: where they lie, packing them there, and the earlier data that a packing continues."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from corank.core.artifact import MANIFEST, open_folder, read_manifest
from corank.core.artifact_cache import ArtifactCache, open_artifact
from corank.core.artifact_objects import Publisher
from corank.core.errors import CheckpointError, ConfigError, DataError, MissingObjectError
from corank.core.lazy import lazy
from corank.core.locks import WriteLock
from corank.core.objects import Location, ObjectUrl, parse_location
from corank.core.reports import Report
from corank.core.time import FOREVER, format_time
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.inputs import fingerprint
from corank.data.packed.manifest import PACK_AGAIN, PackManifest, list_packs, packed_settings
from corank.data.packing.earlier_pack import EarlierPack
from corank.data.packing.packs import (
    Past,
    continued_folder,
    find_continued,
    find_staleness,
    is_past,
    mark_continued,
    open_features,
    pack_features,
    written_at,
)
from corank.engine.base import Engine
from corank.features.log_schema import DataSettings
from corank.training.config.config import Config
from corank.training.config.config_file import from_plain
from corank.training.run_file import RUN_FILE, RunFile

if TYPE_CHECKING:
    from corank.data.packing import pack as packing
else:  # as in `corank.data.packing.packs`
    packing = lazy("corank.data.packing.pack")


def packed_location(config: Config, base: Path) -> Location:
    """Return where a config's packed data lie: at its `packed`, or in `packed/NAME` next to it. Raises StorageError."""
    location = Path("packed", config.name) if config.packed is None else parse_location(config.packed)
    return parse_location(base / location) if isinstance(location, Path) else location


def open_packed(
    config: Config, base: Path, past: Past = lambda folder: False, mark: str | None = None
) -> PackedDataset:
    """Open a config's packed data; of those of all rows and those that continue others the newest.

    Args:
        config: the config.
        base: the folder that its relative paths begin in.
        past: says of a folder that it is enough that its data are of this config, whatever became of the files. Data
            that continue others are never compared with files.
        mark: the fingerprint of the data to prefer to the newest.

    Raises DataError, StorageError if there are none, or they are of another config or other files.
    """
    location = packed_location(config, base)
    if isinstance(location, Path):
        continued = find_continued(location, config.data, config.declared, mark)
        if continued is None:
            return open_features(location, config.data, config.declared, base, past)
        folder, manifest = continued
        if manifest.fingerprint != mark and (mark or written_at(location) > written_at(folder)):
            with suppress(DataError):
                return open_features(location, config.data, config.declared, base, past)
        return PackedDataset.open(folder, expect=manifest.fingerprint).with_features(config.declared)
    packed = PackedDataset.open(location)
    reason: str | None = "other features"
    if packed_settings(packed.manifest.features) == packed_settings(config.declared.features):
        known = packed.data == config.data and past(packed.folder)
        reason = None if known else find_staleness(packed.manifest, config.data, config.declared, base)
    if reason:
        raise DataError(f"{location}: packed from another config or other files: {PACK_AGAIN} ({reason})")
    return packed.with_features(config.declared)


def pack_config(
    config: Config,
    base: Path,
    report: Report = lambda line: None,
    engine: Engine | None = None,
    earlier: EarlierPack | None = None,
) -> PackedDataset:
    """Pack a config's tables; on this machine each set of features has a folder. See `pack_features`.

    Data that go to object storage are packed in the cache's folder first, and then published.

    Args:
        config: the config.
        base: the folder that its relative paths begin in.
        report: receives a line about each step.
        engine: runs the tasks; in line by default.
        earlier: packed data to continue: only later rows are packed, to a folder of their own.

    Raises BusyError, DataError, ConfigError, EngineError, StorageError; what was there before is there then.
    """
    location = packed_location(config, base)
    if isinstance(location, Path):
        if earlier is None:
            return pack_features(config.data, config.declared, base, location, report, engine)
        folder = continued_folder(location, config.data, config.declared, base, earlier)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error}") from None
        _pack_or_keep(config, base, folder, report, engine, earlier)
        mark_continued(earlier.location)
        return PackedDataset.open(folder).with_features(config.declared)
    if earlier is not None and str(location) == earlier.location:
        raise ConfigError(f"packed: {location} holds the data to go on from; name another URL")
    publisher = Publisher.open(location, PackManifest)
    # the same each time, so that a killed packing can resume
    name = hashlib.sha256(str(location).encode()).hexdigest()[:16]
    working = ArtifactCache.of_environment().folder / f"packing-{name}"
    try:
        lock = WriteLock(working, "pack")
    except OSError as error:
        raise DataError(f"{working}: cannot be written: {error}; name another by CORANK_CACHE") from None
    with lock:
        folder = working / location.split()[1]
        _pack_or_keep(config, base, folder, report, engine, earlier)
        report(f"publishing to {location}")
        packed = open_folder(folder, PackManifest, checksums=False)
        publisher.publish(packed.folder, packed.manifest)
        shutil.rmtree(folder)
    with suppress(OSError):  # another packing has begun, or the lock has removed it
        working.rmdir()
    return PackedDataset.open(location).with_features(config.declared)


def _pack_or_keep(
    config: Config,
    base: Path,
    folder: Path,
    report: Report,
    engine: Engine | None,
    earlier: EarlierPack | None,
) -> None:
    """Pack into a folder, unless it is complete: of a packing that could not be published, or of the same state."""
    origin = None if earlier is None else earlier.origin
    try:
        PackedDataset.open(folder, expect=fingerprint(config.data, config.declared, base, origin)).verify()
    except DataError:
        packing.pack_log(config.data, config.declared, base, folder, report, engine, earlier)


def open_or_pack(
    config: Config,
    base: Path,
    report: Report,
    engine: Engine | None = None,
    find_earlier: Callable[[], EarlierPack | None] = lambda: None,
) -> PackedDataset:
    """Open a config's packed data; if there are none, or features are missing, they are packed now.

    Checksums are compared: the caller trains on what is in the files.

    Args:
        config: the config.
        base: the folder that its relative paths begin in.
        report: receives a line about each step.
        engine: runs the tasks; in line by default.
        find_earlier: opens the data that a packing may continue, if those that are there are of an earlier split.

    Raises DataError if they are out of date, or damaged.
    """
    location = packed_location(config, base)
    if isinstance(location, Path):
        if find_continued(location, config.data, config.declared) is not None:
            packed = open_packed(config, base)
            packed.verify()
            return packed
        if (location / MANIFEST).is_file():
            manifest = read_manifest(location, PackManifest)
            changed = find_staleness(manifest, config.data, config.declared, base)
            if changed is None:
                return pack_config(config, base, report, engine)
            earlier, end = find_earlier(), config.data.training_end()
            if earlier is not None and end != FOREVER and end > earlier.through:
                report(
                    f"packing what came since {format_time(earlier.through)}, as `corank pack --from` does"
                )
                return pack_config(config, base, report, engine, earlier)
            packed = open_packed(config, base, is_past)
            packed.verify()
            report(f"{location}: trained on as it was packed, since others go on from it ({changed})")
            return packed
    else:
        try:
            return open_packed(config, base)
        except MissingObjectError:
            pass
    report("not packed yet: packing first")
    return pack_config(config, base, report, engine)


def local_root(config: Config, base: Path) -> Path:
    """The folder of a config's packed data. Raises ConfigError if they lie in object storage, which has no sets."""
    location = packed_location(config, base)
    if isinstance(location, Path):
        return location
    raise ConfigError(f"--prune: {location} holds one set of features, nothing to remove; drop the option")


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
    packed = _open(parse_location(location))
    packed.verify(())  # shards are not read again
    pack = EarlierPack.of(packed, fixed)
    while since is not None and pack.through > since:
        continued = pack.manifest.continued
        if continued is None:
            raise DataError(f"--repack: {pack.location} is the first packing; pack all rows without --from")
        try:
            earlier = _open(parse_location(continued.location))
            earlier.verify(())
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


def verify_packed(location: Location, report: Report) -> PackedDataset:
    """Compare the checksums of all files of packed data, and of the other sets of features in their folder.

    Raises DataError for a file that differs; StorageError.
    """
    for one in list_packs(location) if isinstance(location, Path) else [location]:
        manifest = open_artifact(one, PackManifest).manifest
        report(f"{one}: {len(manifest.files):,} files, {manifest.size:,} bytes: as they were written")
    return PackedDataset.open(location)


def _open(location: Location) -> PackedDataset:
    """Open packed data, or those of a run. Raises DataError if there are neither."""
    if isinstance(location, ObjectUrl):
        return PackedDataset.open(location)
    if (location / RUN_FILE).is_file():
        return _open_of_run(location)
    if location.exists() and not (location / MANIFEST).is_file():
        raise DataError(f"{location}: holds no packed data and no run; name one of `corank pack` or `train`")
    return PackedDataset.open(location)


def _open_of_run(folder: Path) -> PackedDataset:
    """Open the packed data of a run, whatever became of their input files."""
    try:
        run_file = RunFile.read(folder)
    except CheckpointError as error:
        raise DataError(f"{error}; or name its packed data instead") from None
    base = run_file.base_of(folder)
    config = from_plain(run_file.config, str(folder / RUN_FILE), base)
    return open_packed(config, base, lambda folder: True, run_file.packed)

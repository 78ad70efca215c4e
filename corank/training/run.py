"""A run: the folder of one training, and what can be read of it.

run.json                config, and where the data and their packing lie
latest/                 the training state, from which --resume continues
best/                   the weights of the best epoch so far
model/                  the trained model with its calibrators: written last, so a run that has it is finished
events/                 TensorBoard
trees/                  scores of tree teachers, if there are some
predictions/            what the trained model predicted of a split, from which figures are computed again
bundle/                 what `corank serve RUN` exported
templates/              of its graphs, which also a training that overwrites it leaves (graph_templates.py)
tracking/               for each other tracker, what finds its run of this one

A checkpoint is an artifact with a file of each process (checkpoint_files.py).

Removal of packed data that neither a config nor the runs next to it use.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import TypeAdapter

from corank.core.artifact import ArtifactWriter, read_manifest
from corank.core.artifact_cache import open_artifact
from corank.core.errors import BusyError, CheckpointError, ConfigError, CorankError, DataError
from corank.core.files import remove_abandoned, remove_folder
from corank.core.formatting import shorten
from corank.core.lazy import lazy
from corank.core.locks import LOCK, LockHolder, WriteLock
from corank.core.objects import Location, parse_location
from corank.core.reports import Report
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import SETS, PackManifest, list_packs, packed_settings
from corank.data.packing.packs import is_past
from corank.evaluation.predictions import Calibrators
from corank.training.checkpoints.facts import config_facts, require_matching
from corank.training.checkpoints.manifest import CheckpointManifest, exists, remove
from corank.training.config.config import Config
from corank.training.config.config_file import from_plain, plain
from corank.training.config.yaml_values import change_values
from corank.training.graph_templates import Templates
from corank.training.packed_data import local_root, open_packed, packed_location
from corank.training.run_file import RUN_FILE, TRACKING, Origin, RunFile
from corank.training.run_publisher import RunManifest

if TYPE_CHECKING:
    from corank.models.joint import JointModel
    from corank.training import model_building
    from corank.training.checkpoints import checkpoint_files, stored_weights, training_state
    from corank.training.checkpoints.checkpoint import Checkpoint
    from corank.training.checkpoints.checkpoint_files import CheckpointWriter
    from corank.training.checkpoints.stored_weights import StoredWeights
else:  # what has tensors: a run's config, packed data and figures are read without torch
    model_building = lazy("corank.training.model_building")
    checkpoint_files = lazy("corank.training.checkpoints.checkpoint_files")
    stored_weights = lazy("corank.training.checkpoints.stored_weights")
    training_state = lazy("corank.training.checkpoints.training_state")

_CALIBRATORS: TypeAdapter[Calibrators] = TypeAdapter(Calibrators)
CHECKPOINTS = ("model", "latest", "best")
"""In the order of removal: the training state before the best weights, without which it cannot continue."""


TREES = "trees"
"""Folder with the scores of each tree teacher for the candidates of the training split."""
PREDICTIONS = "predictions"
"""Folder with the logits of each split that was predicted (corank/analysis/kept_predictions.py)."""


@dataclass(frozen=True)
class Run:
    """The folder of one training, with its config."""

    folder: Path
    config: Config
    base: Path
    """Relative paths of the config begin here."""
    publish: Callable[[], object] | None = field(default=None, repr=False, compare=False)
    """Called when a checkpoint is written, if the run lies in object storage and the folder is a working folder."""
    is_copy: bool = False
    """Whether the folder is the cache's copy of a run that lies in object storage."""
    origin: Origin | None = field(default=None, repr=False, compare=False)
    """The run whose weights it took over; None if it began at random ones."""

    @classmethod
    def create(
        cls,
        folder: Path,
        config: Config,
        base: Path,
        publish: Callable[[], object] | None = None,
        origin: Origin | None = None,
        packed_mark: str | None = None,
    ) -> Self:
        """Begin a run in a folder; the files of an earlier run there are removed. The caller holds its lock.

        `packed_mark` is the fingerprint of the packed data, of which a config may have several that continue others.

        Killed at any point, the folder holds a run that is finished, that can be resumed, or that begins again.

        Raises CheckpointError if the folder cannot be written.
        """
        # a run that lies elsewhere names the config's folder from the root
        base_text = os.path.relpath(base, folder) if publish is None else str(base.absolute())
        file = RunFile(config=plain(config), base=base_text, origin=origin, packed=packed_mark)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in CHECKPOINTS:
                remove(folder / name)
            for name in ("events", TRACKING, TREES, PREDICTIONS, "bundle"):
                shutil.rmtree(folder / name, ignore_errors=True)
            file.write(folder)
        except OSError as error:
            raise _unwritable(folder, error) from None
        return cls(folder, config, base, publish, origin=origin)

    @classmethod
    def lock(cls, folder: Path) -> WriteLock:
        """Take the lock of a run's folder, which is made. Raises BusyError, CheckpointError if it cannot be written."""
        try:
            return WriteLock(folder, "train")
        except OSError as error:
            raise _unwritable(folder, error) from None

    @classmethod
    def open(cls, location: Location) -> Self:
        """Open a run, in its folder or at its URL; its config's plug-ins are loaded.

        Raises CheckpointError if there is no run, ConfigError, StorageError.
        """
        folder = location if isinstance(location, Path) else open_artifact(location, RunManifest).folder
        run_file = RunFile.read(folder)
        base, source = run_file.base_of(folder), str(folder / RUN_FILE)
        config = from_plain(run_file.config, source, base)
        return cls(folder, config, base, is_copy=folder != location, origin=run_file.origin)

    def with_export(self, overrides: Sequence[str]) -> Self:
        """Return the run with changes `export.KEY=value` of its config. Raises ConfigError, for other keys, too."""
        for override in overrides:
            if not override.startswith("export."):
                raise ConfigError(f"--set {shorten(override)}: only keys of `export` change after training")
        if not overrides:
            return self
        source = str(self.folder / RUN_FILE)
        values = change_values(plain(self.config), overrides).value
        return replace(self, config=from_plain(values, source, self.base))

    @classmethod
    def has_begun(cls, folder: Path) -> bool:
        """Whether a folder holds a training: finished, or one that can be resumed."""
        return any(exists(folder / name) for name in CHECKPOINTS)

    def locate_origin(self) -> Location | None:
        """Where the run lies whose weights it took over; None if it began at random ones."""
        if self.origin is None:
            return None
        location = parse_location(self.origin.run)
        return (self.folder / location).resolve() if isinstance(location, Path) else location

    @property
    def templates(self) -> Templates:
        """The templates of its graphs: its own, those of the run that it continues, and those in the user's cache."""
        if self.is_copy:
            return Templates()
        before = self.locate_origin()
        return Templates.of_run(self.folder, before if isinstance(before, Path) else None)

    @property
    def latest(self) -> Path:
        """The latest state of the training."""
        return self.folder / "latest"

    @property
    def has_state(self) -> bool:
        """Whether there is a state, from which training can continue."""
        return exists(self.latest)

    @property
    def best(self) -> Path:
        """The best epoch's weights."""
        return self.folder / "best"

    def packed(self) -> PackedDataset:
        """Open the packed data.

        Raises DataError unless they are of this config and, if no others continue them, of the files as they are.
        """
        mark = None
        with suppress(CheckpointError):
            mark = RunFile.read(self.folder).packed
        return open_packed(self.config, self.base, is_past, mark)

    @property
    def checkpoint(self) -> Path:
        """The trained model."""
        return self.folder / "model"

    @property
    def finished(self) -> bool:
        """Whether training has ended and the model is written."""
        return exists(self.checkpoint)

    def trained(self, packed: PackedDataset) -> "Checkpoint":
        """Load the trained model's checkpoint. Raises CheckpointError if there is none, or it is of another packing."""
        self.require_finished()
        return checkpoint_files.load_matching(self.checkpoint, self.config, packed)

    def stored_weights(self, packed: PackedDataset) -> "StoredWeights":
        """Open the trained model's weights, to be read without torch. Raises as `trained` does."""
        self.require_finished()
        weights = stored_weights.StoredWeights.open(self.checkpoint)
        require_matching(weights.opened.manifest.facts, self.config, packed, self.checkpoint)
        return weights

    def described(self, packed: PackedDataset) -> tuple[CheckpointManifest, Calibrators]:
        """Read the trained model's manifest and calibrators, not its weights. Raises as `trained` does."""
        self.require_finished()
        manifest = read_manifest(self.checkpoint, CheckpointManifest)
        require_matching(manifest.facts, self.config, packed, self.checkpoint)
        return manifest, _calibrators(manifest.facts, self.config, self.checkpoint)

    def require_finished(self) -> None:
        """Raise CheckpointError unless training has ended."""
        if not self.finished:
            holder = LockHolder.read(self.folder / LOCK)
            busy = f"wait for {holder}, or " if holder else ""
            raise CheckpointError(
                f"{self.folder}: training has not finished; {busy}go on with `corank train --resume`"
            )

    def shipped(self) -> tuple["Checkpoint", Calibrators]:
        """Load trained weights and calibrators, whatever the packed data. Raises CheckpointError if there are none."""
        self.require_finished()
        checkpoint = checkpoint_files.load(self.checkpoint)
        return checkpoint, _calibrators(checkpoint.facts, self.config, self.checkpoint)

    def model(self, packed: PackedDataset) -> tuple["JointModel", Calibrators]:
        """Load the trained model and its calibrators. Raises CheckpointError if training has not finished."""
        return self._load(packed, lambda: model_building.build_model(self.config, packed))[:2]

    def networks(self, packed: PackedDataset) -> tuple["JointModel", Calibrators, "Checkpoint"]:
        """Load the trained model without rows of its tables, its calibrators, and the checkpoint, which has them.

        Raises CheckpointError if training has not finished.
        """
        return self._load(packed, lambda: model_building.build_networks(self.config, packed.encoders))

    def _load(
        self, packed: PackedDataset, build: Callable[[], "JointModel"]
    ) -> tuple["JointModel", Calibrators, "Checkpoint"]:
        checkpoint, model = self.trained(packed), build()
        training_state.restore_model(checkpoint, model, self.checkpoint)
        return model, _calibrators(checkpoint.facts, self.config, self.checkpoint), checkpoint

    def finish(
        self,
        packed: PackedDataset,
        model: "JointModel",
        calibrators: Calibrators,
        facts: dict[str, Any],
        writer: "CheckpointWriter | None" = None,
    ) -> None:
        """Write the trained model, which makes the run finished. A collective of the writer's ranks.

        Raises CheckpointError if the disk refuses.
        """
        fitted = {stage: {n: asdict(p) for n, p in labels.items()} for stage, labels in calibrators.items()}
        model_facts = config_facts(self.config, packed) | {"calibrators": fitted} | facts
        writer = writer or checkpoint_files.CheckpointWriter()
        writer.write(self.checkpoint, training_state.model_state(model, model_facts))
        writer.wait()
        if writer.ranks.first:
            for folder in filter(exists, (self.latest, self.best)):
                ArtifactWriter.of(folder, CheckpointManifest).prune()


def locate_packed(location: Location) -> Location:
    """Where packed data lie that are named by their folder, by their URL, or by the folder of a run.

    Raises DataError, StorageError if the run's data are not there.
    """
    if isinstance(location, Path) and (location / RUN_FILE).is_file():
        return Run.open(location).packed().location
    return location


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{folder}: cannot be written: {error}; name another with --run")


def _calibrators(facts: Mapping[str, Any], config: Config, path: Path) -> Calibrators:
    """The calibrators of a trained model. Raises CheckpointError unless each label of each stage has a sound one."""
    try:
        calibrators = _CALIBRATORS.validate_python(facts["calibrators"])
        return {stage.name: {n: calibrators[stage.name][n] for n in stage.labels} for stage in config.stages}
    except (ValueError, KeyError, DataError):
        raise CheckpointError(f"{path}: its calibrators are not those of its stages; train again") from None


RUNS = ("runs/*", "experiments/*/run", "tunings/*/run")
"""Where commands put runs, next to the config."""


def prune_packed(config: Config, base: Path, report: Report = lambda line: None) -> int:
    """Remove the sets of features that neither the config nor a run next to it uses.

    Args:
        config: the config, whose data are packed on this machine.
        base: its folder; runs are looked for as RUNS says.
        report: receives a line about each set that is removed, and one about all.

    Returns how many bytes were freed. Raises BusyError if a run next to it is being trained or the data are being
    packed, ConfigError, DataError if a run cannot be read or a set not removed.
    """
    root, freed, count = local_root(config, base), 0, 0
    used, folders = [packed_settings(config.declared.features)], []
    for run in _open_runs(base):
        location = packed_location(run.config, run.base)
        if isinstance(location, Path):
            folders.append(location.resolve())
            if folders[-1] == root.resolve():
                used.append(packed_settings(run.config.declared.features))
    try:
        with WriteLock(root, "pack"):
            remove_abandoned(root / SETS, "*")
            sets = list_packs(root)[1:]
            for folder in sets:
                here = folder.resolve()
                if _read_settings(folder) in used or any(one.is_relative_to(here) for one in folders):
                    continue
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                remove_folder(folder)
                freed, count = freed + size, count + 1
                report(f"removed {folder}: {size:,} bytes")
    except OSError as error:
        raise DataError(f"{root}: cannot be pruned: {error}") from None
    report(f"removed {count} of {len(sets)} other sets of features: {freed:,} bytes freed")
    return freed


def _read_settings(folder: Path) -> dict[str, object] | None:
    """The features of a set; None of one that cannot be opened."""
    try:
        return packed_settings(read_manifest(folder, PackManifest).features)
    except DataError:
        return None


def _open_runs(base: Path) -> list[Run]:
    """Open the runs next to a config. Raises BusyError, DataError."""
    runs = []
    for folder in sorted(path for pattern in RUNS for path in base.glob(pattern)):
        if holder := LockHolder.read(folder / LOCK):
            raise BusyError(f"{folder}: {holder} is writing it; prune when it has ended")
        if (folder / RUN_FILE).is_file():
            try:
                runs.append(Run.open(folder))
            except CorankError as error:
                raise DataError(
                    f"{folder}: cannot be read, so that nothing is removed which it may use; move it away ({error})"
                ) from None
    return runs

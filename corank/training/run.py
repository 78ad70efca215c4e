"""A run: the folder of one training, and what can be read of it.

run.json                config, and where the data and their packing lie
latest.safetensors      the training state, from which --resume goes on
best.safetensors        the weights of the best epoch so far
model.safetensors       the trained model with its calibrators: written last, so a run that has it is finished
events/                 TensorBoard
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from corank.core.calibration import Platt
from corank.core.errors import CheckpointError, ConfigError
from corank.core.files import atomic_file
from corank.core.locks import LOCK, LockHolder, WriteLock
from corank.core.settings import validate
from corank.data.dataset import PackedDataset
from corank.data.log_rows import LAST_POSITION
from corank.data.pack_manifest import fingerprint
from corank.evaluation.stage_order import Calibrators
from corank.features.input_layout import Layout
from corank.models.joint import JointModel
from corank.training.checkpoints.checkpoint import Checkpoint, load, save
from corank.training.config import Config
from corank.training.config_file import from_plain, plain


@dataclass(frozen=True)
class Run:
    """The folder of one training, with its config."""

    folder: Path
    config: Config
    base: Path
    """Relative paths of the config begin here."""

    @classmethod
    def create(cls, folder: Path, config: Config, base: Path) -> Self:
        """Begin a run in a folder; the files of an earlier run there are removed. The caller holds its lock.

        Killed at any point, the folder holds a run that is finished, that can be resumed, or that begins anew.

        Raises CheckpointError if the folder cannot be written.
        """
        text = json.dumps({"config": plain(config), "base": os.path.relpath(base, folder)}, indent=1)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # the training state before the best weights, without which it cannot be resumed
            for name in ("model", "latest", "best"):
                (folder / f"{name}.safetensors").unlink(missing_ok=True)
            shutil.rmtree(folder / "events", ignore_errors=True)
            with atomic_file(folder / "run.json") as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise _unwritable(folder, error) from None
        return cls(folder, config, base)

    @classmethod
    def lock(cls, folder: Path) -> WriteLock:
        """Take the lock of a run's folder, which is made. Raises BusyError, CheckpointError if it cannot be written."""
        try:
            return WriteLock.of_folder(folder, "train")
        except OSError as error:
            raise _unwritable(folder, error) from None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a run; its config's plug-ins are loaded. Raises CheckpointError if there is no run, ConfigError."""
        path = folder / "run.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            settings, base = held["config"], (folder / held["base"]).resolve()
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder}: not a run (it has no run.json); `corank train` makes one"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: damaged or no run ({error!r}); train again") from None
        return cls(folder, from_plain(settings, str(path), base), base)

    @property
    def latest(self) -> Path:
        """The file of the latest checkpoint."""
        return self.folder / "latest.safetensors"

    @property
    def best(self) -> Path:
        """The file of the best epoch's weights."""
        return self.folder / "best.safetensors"

    def packed(self) -> PackedDataset:
        """Open the packed data. Raises DataError unless they are of this config and of the files as they are now."""
        return open_packed(self.config, self.base)

    @property
    def finished(self) -> bool:
        """Whether training has ended and the model is written."""
        return self._model.is_file()

    @property
    def _model(self) -> Path:
        return self.folder / "model.safetensors"

    def trained(self, packed: PackedDataset) -> Checkpoint:
        """Load the trained model's checkpoint. Raises CheckpointError if there is none, or it is of another packing."""
        if not self.finished:
            holder = LockHolder.read(self.folder / LOCK)
            busy = f"wait for {holder}, or " if holder else ""
            raise CheckpointError(
                f"{self.folder}: training has not finished; {busy}go on with `corank train --resume`"
            )
        return load_matching(self._model, "calibrators", self.config, packed)

    def model(self, packed: PackedDataset) -> tuple[JointModel, Calibrators]:
        """Load the trained model and its calibrators. Raises CheckpointError if training has not finished."""
        held = self.trained(packed)
        model = build_model(self.config, packed)
        model.load_state_dict(held.tensors)
        return model, {
            stage: {label: Platt(**platt) for label, platt in labels.items()}
            for stage, labels in held.facts["calibrators"].items()
        }

    def finish(
        self, packed: PackedDataset, model: JointModel, calibrators: Calibrators, facts: dict[str, Any]
    ) -> None:
        """Write the trained model, which makes the run finished. Raises CheckpointError if the disk refuses."""
        fitted = {stage: {n: asdict(p) for n, p in labels.items()} for stage, labels in calibrators.items()}
        held = config_facts(self.config, packed) | {"calibrators": fitted} | facts
        save(self._model, Checkpoint(model.state_dict(), held))


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{folder}: cannot be written: {error}; name another with --run")


def build_model(config: Config, packed: PackedDataset) -> JointModel:
    """Build the model of a config, with weights drawn by torch's seed."""
    layout = Layout(packed.schema, packed.encoders.sizes)
    positions = LAST_POSITION + 1 if config.data.position else 0
    return JointModel(config.stages, layout, config.teachers, positions)


def packed_folder(config: Config, base: Path) -> Path:
    """The folder of a config's packed data."""
    return base / "packed" / config.name


def open_packed(config: Config, base: Path) -> PackedDataset:
    """Open a config's packed data. Raises DataError if there are none, or they are of another config or other files."""
    return PackedDataset.open(
        packed_folder(config, base), expect=fingerprint(config.data, config.declared, base)
    )


def config_facts(config: Config, packed: PackedDataset) -> dict[str, Any]:
    """The facts that tie a checkpoint to a config and to packed data."""
    return {"config": plain(config), "codes": packed.codes}


def load_matching(path: Path, part: str, config: Config, packed: PackedDataset) -> Checkpoint:
    """Load a checkpoint of this config and packing that holds the fact `part`.

    Raises CheckpointError, which names the keys that differ, if it is of another config or packing.
    """
    held = load(path)
    _refuse_other_config(held, config, path)
    if held.facts.get("codes") != packed.codes:
        raise CheckpointError(
            f"{path}: trained on another packing of the data, whose vocabularies differ; "
            "train anew with --overwrite"
        )
    if part not in held.facts:
        raise CheckpointError(f"{path}: holds no {part}; it is a checkpoint of another kind; train again")
    return held


def _refuse_other_config(held: Checkpoint, config: Config, path: Path) -> None:
    ours, theirs = _flat(plain(config)), _flat(_with_defaults(held.facts.get("config", {})))
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        named = "; ".join(f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} now" for k in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise CheckpointError(
            f"{path}: a checkpoint of another config ({named}{more}); "
            "give the config that it was trained with, or train anew without --resume"
        )


def _with_defaults(settings: Any) -> Any:
    """A checkpoint's config with the defaults of keys added since; unchanged if it is not valid now."""
    try:
        return plain(validate(Config, settings, "checkpoint"))
    except ConfigError:
        return settings


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            k: v for key, part in items for k, v in _flat(part, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: value}

"""A run: the folder of one training, and what can be read of it.

run.json                config, and where the data and their packing lie
latest.safetensors      the training state, from which --resume goes on
best.safetensors        the weights of the best epoch so far
model.safetensors       the trained model with its calibrators: written last, so a run that has it is finished
events/                 TensorBoard
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from corank.calibrate import Platt
from corank.checkpoint import Checkpoint, load, save
from corank.config import Config, plain
from corank.errors import CheckpointError
from corank.evaluate import Calibrators
from corank.joint import JointModel
from corank.layout import Layout
from corank.pack import Packed, fingerprint
from corank.settings import validated


@dataclass(frozen=True)
class Run:
    folder: Path
    config: Config
    base: Path
    """Relative paths of the config begin here."""

    @classmethod
    def create(cls, folder: Path, config: Config, base: Path) -> Self:
        """Begin a run, or begin it anew: what an earlier one of the same name left is removed."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("model", "best", "latest"):
            (folder / f"{name}.safetensors").unlink(missing_ok=True)
        run = cls(folder, config, base)
        text = json.dumps({"config": plain(config), "base": os.path.relpath(base, folder)}, indent=1)
        partial = folder / ".run.json"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / "run.json")
        return run

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises CheckpointError where there is no run."""
        path = folder / "run.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder}: not a run (it has no run.json); `corank train` makes one"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
        return cls(folder, validated(Config, held.get("config"), str(path)), (folder / held["base"]).resolve())

    @property
    def latest(self) -> Path:
        return self.folder / "latest.safetensors"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    def packed(self) -> Packed:
        """Raises DataError unless the packed data are of this config and of the files as they are."""
        return packed_of(self.config, self.base)

    def model(self, packed: Packed) -> tuple[JointModel, Calibrators]:
        """The trained model and its calibrators. Raises CheckpointError if training has not finished."""
        path = self.folder / "model.safetensors"
        if not path.is_file():
            raise CheckpointError(
                f"{self.folder}: training has not finished; go on with `corank train --resume`"
            )
        held = load(path)
        refuse_other_config(held, self.config, path)
        model = JointModel(self.config.stages, Layout(packed.schema, packed.encoders.sizes))
        model.load_state_dict(held.tensors)
        return model, {
            stage: {label: Platt(**platt) for label, platt in labels.items()}
            for stage, labels in held.facts["calibrators"].items()
        }

    def finish(self, model: JointModel, calibrators: Calibrators, facts: dict[str, Any]) -> None:
        fitted = {stage: {n: asdict(p) for n, p in labels.items()} for stage, labels in calibrators.items()}
        held = {"config": plain(self.config), "calibrators": fitted} | facts
        save(self.folder / "model.safetensors", Checkpoint(model.state_dict(), held))


def packed_folder(config: Config, base: Path) -> Path:
    return base / "packed" / config.name


def packed_of(config: Config, base: Path) -> Packed:
    """The packing of a config. Raises DataError if there is none, or it is of another config or other files."""
    return Packed.open(packed_folder(config, base), expect=fingerprint(config.data, config.declared, base))


def refuse_other_config(held: Checkpoint, config: Config, path: Path) -> None:
    """Raise CheckpointError, naming the keys, unless the checkpoint is of this very config."""
    ours, theirs = _flat(plain(config)), _flat(held.facts.get("config", {}))
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        shown = "; ".join(f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} now" for k in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise CheckpointError(
            f"{path}: a checkpoint of another config ({shown}{more}); "
            "give the config that it was trained with, or train anew without --resume"
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            k: v for key, part in items for k, v in _flat(part, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: value}

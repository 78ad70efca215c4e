"""Two days of one world: packed with the same encoders, or each with its own."""

import shutil
from pathlib import Path

import corank
from corank.core.artifact import ArtifactWriter, new_content, read_manifest
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import PackManifest
from corank.training.run import Run
from corank.training.trainer import Trainer
from corank.training.warm_start_plan import plan_warm_start
from corank.training.weight_transfer import warm_start
from tests.support.shared import shared, small_world

FIRST = "data.split={train: 2026-03-01..2026-03-06, valid: 2026-03-06..2026-03-07}"
SECOND = (
    "data.split={train: 2026-03-06..2026-03-08, valid: 2026-03-08..2026-03-09, test: 2026-03-09..2026-03-11}"
)


def second_day() -> Path:
    """Packed data of `small_world` with its encoders, whose training rows are those that validate there."""
    return shared("second_day", _swap_splits) / "packed"


def _swap_splits(folder: Path) -> None:
    first = small_world() / "packed" / "simulated-medium"
    manifest, other = read_manifest(first, PackManifest), {"train": "valid", "valid": "train"}

    def fill(content: Path) -> PackManifest:
        shutil.copytree(first / manifest.content, content, dirs_exist_ok=True)
        for parent in (content, content / "counts"):
            (parent / "train").rename(parent / "first")
            (parent / "valid").rename(parent / "train")
            (parent / "first").rename(parent / "valid")
        splits = {other.get(name, name): shards for name, shards in manifest.splits.items()}
        return manifest.model_copy(update={"splits": splits})

    with ArtifactWriter.lock(folder / "packed", PackManifest, "pack") as writer:
        writer.write(new_content(), fill)


def of_days() -> tuple[Path, list[str], list[str]]:
    """A config, and the overrides of its first and its second day, each packed with encoders of its own."""
    config = small_world() / "config.yaml"
    return config, [FIRST, f"packed={_packed(1)}"], [SECOND, f"packed={_packed(2)}"]


def _packed(day: int) -> Path:
    def pack(folder: Path) -> None:
        corank.pack(small_world() / "config.yaml", [(FIRST, SECOND)[day - 1], f"packed={folder / 'packed'}"])

    return shared(f"day{day}", pack) / "packed"


def begin_from(source: Run, run: Run, packed: PackedDataset) -> Trainer:
    """A trainer of a run that has taken over what fits of a finished one, and has not made a step."""
    trainer = Trainer(run, packed)
    warm_start(plan_warm_start(source.folder, run.config, packed), trainer)
    return trainer

"""Two days of one world: packed with the same encoders, or each with its own."""

import json
import shutil
from pathlib import Path

import corank
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import MANIFEST
from corank.distributed.ranks import Ranks
from corank.training.run import Run
from corank.training.trainer import Trainer
from corank.training.warm_start_preparation import plan_warm_start
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
    out = folder / "packed"
    shutil.copytree(small_world() / "packed" / "simulated-medium", out)
    other = {"train": "valid", "valid": "train"}
    for parent in (out, out / "counts"):
        (parent / "train").rename(parent / "held")
        (parent / "valid").rename(parent / "train")
        (parent / "held").rename(parent / "valid")
    plain = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    plain["splits"] = {other.get(name, name): shards for name, shards in plain["splits"].items()}
    plain["files"] = {_swapped(name, other): size for name, size in plain["files"].items()}
    (out / MANIFEST).write_text(json.dumps(plain), encoding="utf-8")


def _swapped(name: str, other: dict[str, str]) -> str:
    return "/".join(other.get(part, part) for part in name.split("/"))


def of_days() -> tuple[Path, list[str], list[str]]:
    """A config, and the overrides of its first and its second day, each packed with encoders of its own."""
    config = small_world() / "config.yaml"
    return config, [FIRST, f"packed={_packed(1)}"], [SECOND, f"packed={_packed(2)}"]


def _packed(day: int) -> Path:
    def pack(folder: Path) -> None:
        corank.pack(small_world() / "config.yaml", [(FIRST, SECOND)[day - 1], f"packed={folder / 'packed'}"])

    return shared(f"day{day}", pack) / "packed"


def begin_from(source: Run, run: Run, packed: PackedDataset, ranks: Ranks | None = None) -> Trainer:
    """A trainer of a run that has taken over what fits of a finished one, and has not made a step."""
    trainer = Trainer(run, packed, ranks)
    warm_start(plan_warm_start(source.folder, run.config, packed), trainer)
    return trainer

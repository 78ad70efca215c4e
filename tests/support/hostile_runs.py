"""Runs and packed data mutated by what they are made of: JSON, arrays, bytes, links, pipes."""

import json
import pickle
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from corank.bundle.item_records import ItemRecords
from corank.core.artifact import MANIFEST, digest, measure_files
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.evaluation.predict import predict_by_ranks
from corank.training.checkpoints.checkpoint_files import load, write_shard
from corank.training.checkpoints.manifest import CheckpointManifest, shard_file
from corank.training.export import export_bundle
from corank.training.run import CHECKPOINTS, Run
from corank.training.train import train_run
from corank.training.trainer import Trainer
from corank.training.warm_start_plan import plan_warm_start
from corank.training.weight_transfer import bring_onto, warm_start
from tests.support.hostile_bundles import NAMES, mutate_bytes, mutate_part
from tests.support.hostile_cases import VALUES, HostileFolder
from tests.support.hostile_input import mutate
from tests.support.shared import derived, shared

FACTS = ["", "[", "[]", "7", "null", '{"progress": 1}', "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900]
"""Texts in the place of run.json."""
CONTENT = "0123456789abcdef"


def hostile_run() -> Run:
    """A finished run of the shared case that has something of every kind, with an average; tests copy it."""
    case = derived()
    train = case.config.train.model_copy(update={"epochs": 1, "average": 0.9})
    config = case.config.model_copy(update={"train": train})

    def make(folder: Path) -> None:
        train_run(Run.create(folder / "run", config, case.base), case.packed)

    return Run.open(shared("hostile_run", make) / "run")


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], facts: str) -> None:
    """Write a checkpoint whose checksums and digest fit, whatever its facts and its tensors are."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / CONTENT).mkdir(parents=True)
    write_shard(folder / CONTENT, 0, 1, tensors)
    stored = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [*tensor.shape], "table": False}
        for name, tensor in tensors.items()
    }
    outline = {"kind": "checkpoint", "format": CheckpointManifest.written_format(), "content": CONTENT}
    write_manifest(folder, outline | {"facts": None, "tensors": stored}, facts)


def write_manifest(folder: Path, plain: dict[str, Any], facts: str) -> None:
    """Write the manifest of a checkpoint's files as they are, with a text in the place of its facts."""
    files = measure_files(folder / plain["content"])
    plain = plain | {"facts": None, "files": {name: file.model_dump() for name, file in files.items()}}
    with suppress(ValueError, RecursionError):
        plain["digest"] = digest(plain | {"facts": json.loads(facts)})
    (folder / MANIFEST).write_text(
        json.dumps(plain).replace('"facts": null', f'"facts": {facts}', 1), encoding="utf-8"
    )


def resealed(plain: Any) -> Any:
    """A manifest with the digest that fits, if it is one."""
    return plain | {"digest": digest(plain)} if isinstance(plain, dict) else plain


class HostileRuns(HostileFolder):
    """Writes mutations of one run, and uses them as commands do."""

    def __init__(self, run: Run, packed: PackedDataset, folder: Path) -> None:
        """
        Args:
            run: a sound one, finished.
            packed: its data.
            folder: for the cases, next to files that none may touch.
        """
        super().__init__(folder, "run")
        self.sound, self.packed = run, packed
        self.plain = json.loads((run.folder / "run.json").read_bytes()) | {"base": str(run.base)}
        self.held = {name: load(run.folder / name) for name in CHECKPOINTS}
        self.use: Callable[[], object] = self.evaluate

    def write(self, random_: random.Random) -> None:
        """Write the sound run with a mutation."""
        shutil.rmtree(self.case.parent, ignore_errors=True)
        self.case.mkdir(parents=True)
        text = json.dumps(self.plain).encode()
        for name, checkpoint in self.held.items():
            write_checkpoint(self.case / name, checkpoint.tensors, json.dumps(checkpoint.facts))
        name = random_.choice(["model", "model", "latest", "latest", "best", "run.json"])
        if name == "run.json":
            text = mutate_document(random_, self.plain)
        else:
            mutate_checkpoint(random_, self.case / name)
        (self.case / "run.json").write_bytes(text)
        if random_.random() < 0.05:
            self.put_link(random_, random_.choice([*self.case.rglob("*")]))
        self.use = random_.choice(
            {
                "model": [self.evaluate, self.judge, self.judge, self.export],
                "latest": [self.carry, self.carry, self.resume],
                "best": [self.carry],
                "run.json": [self.evaluate, self.carry, self.judge],
            }[name]
        )

    def open(self) -> None:
        """Use the run as one of the commands that read it."""
        self.use()

    def evaluate(self) -> None:
        """As `corank evaluate`: read the model, and let it score a batch."""
        run = Run.open(self.case)
        model, _ = run.model(run.packed())
        model.eval()
        trainer = Trainer(self.sound, self.packed)
        trainer.model.load_state_dict(model.state_dict())
        trainer.step(next(iter(trainer.reader.read_shuffled(0))))

    def carry(self) -> None:
        """As `corank train --from`: plan, take over, and make a step."""
        trainer = Trainer(self.sound, self.packed)
        warm_start(plan_warm_start(self.case, self.sound.config, self.packed), trainer)
        trainer.step(next(iter(trainer.reader.read_shuffled(0))))
        trainer.shipped()

    def resume(self) -> None:
        """As `corank train --resume`: take the latest state over, and make a step."""
        shutil.rmtree(self.case / "model", ignore_errors=True)
        run = Run.open(self.case)
        trainer = Trainer(run, run.packed())
        trainer.load()
        trainer.step(next(iter(trainer.reader.read_shuffled(trainer.progress.epoch))))

    def judge(self) -> None:
        """As `corank compare --on` judges a run on other data."""
        bring_onto(Run.open(self.case), self.packed.location)

    def export(self) -> None:
        """As `corank export`."""
        run = Run.open(self.case)
        packed = run.packed()
        model, calibrators, weights = run.networks(packed)
        export_bundle(self.case.parent / "bundle", run.config, packed, model, calibrators, weights=weights)


class HostilePackings(HostileFolder):
    """Writes mutations of one packing, and trains and predicts on those that open."""

    def __init__(self, packed: PackedDataset, run: Run, folder: Path) -> None:
        """
        Args:
            packed: sound packed data.
            run: of their config.
            folder: for the cases, next to files that none may touch.
        """
        super().__init__(folder, "packed")
        self.plain = packed.manifest.sealed()
        self.files = {name: (packed.folder / name).read_bytes() for name in self.plain["files"]}
        self.run_of = run

    def write(self, random_: random.Random) -> None:
        """Write the sound packing with a mutation."""
        plain, files = json.loads(json.dumps(self.plain)), dict(self.files)
        if random_.random() < 0.25:
            plain = mutate(random_, plain, random_.choice([*VALUES, *NAMES]))
        else:
            name = random_.choice([*files])
            files[name] = mutate_part(random_, name, files[name], [*files.values()])
            if random_.random() < 0.9:
                plain["files"][name]["bytes"] = len(files[name])
        shutil.rmtree(self.case.parent, ignore_errors=True)
        content = self.case / self.plain["content"]
        for name, raw in files.items():
            (content / name).parent.mkdir(parents=True, exist_ok=True)
            (content / name).write_bytes(raw)
        text = json.dumps(resealed(plain)).encode()
        (self.case / MANIFEST).write_bytes(mutate_bytes(random_, text) if random_.random() < 0.05 else text)
        if random_.random() < 0.05:
            self.put_link(random_, random_.choice([*self.case.rglob("*")]))

    def open(self) -> None:
        """Open the packing, make a step of a training, and predict."""
        packed = PackedDataset.open(self.case)
        trainer = Trainer(self.run_of, packed)
        trainer.step(next(iter(trainer.reader.read_shuffled(0))))
        predict_by_ranks(trainer.model, packed, "test", Ranks(), names=trainer.model.networks)
        with packed.naming_damage():
            priors = packed.priors.as_of(
                packed.schema.snapshots(), packed.schema.priors(), packed.manifest.last
            )
            ItemRecords.of_packed(packed, priors, *packed.newest_items())


def mutate_document(random_: random.Random, plain: dict[str, Any]) -> bytes:
    """Change run.json: a value, its bytes, or how deep it is."""
    how = random_.random()
    if how < 0.7:
        return json.dumps(mutate(random_, plain, random_.choice(VALUES))).encode()
    if how < 0.85:
        return mutate_bytes(random_, json.dumps(plain).encode())
    return random_.choice(FACTS).encode()


def mutate_checkpoint(random_: random.Random, folder: Path) -> None:
    """Change bytes of a checkpoint, or what its manifest says."""
    path, (shard,) = folder / MANIFEST, (folder / CONTENT).iterdir()
    how = random_.random()
    if how < 0.5:
        path = random_.choice([path, shard])
        path.write_bytes(mutate_bytes(random_, path.read_bytes()))
    elif how < 0.7:
        write_shard_bytes(folder, random_.choice([b"", pickle.dumps({"w": [1.0]}), huge_header(random_)]))
    else:
        plain = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(mutate(random_, plain, random_.choice(VALUES))), encoding="utf-8")


def write_shard_bytes(folder: Path, raw: bytes) -> None:
    """Write a file of other bytes into a checkpoint, whose checksums and digest fit."""
    plain = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / plain["content"] / shard_file(0, 1)).write_bytes(raw)
    write_manifest(folder, plain, json.dumps(plain["facts"]))


def huge_header(random_: random.Random) -> bytes:
    """A file whose header declares a tensor that it does not have."""
    rows = random_.choice([10**6, 10**12, 2**62])
    header = json.dumps({"x": {"dtype": "F32", "shape": [rows, 4], "data_offsets": [0, 16 * rows]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 16

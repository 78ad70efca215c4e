"""Packed data mutated by what they are made of: manifest, arrays, tables, encoders, sizes, links and pipes."""

import json
import random
import shutil
from pathlib import Path

from corank.bundle.item_records import ItemRecords
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import MANIFEST
from corank.distributed.ranks import Ranks
from corank.evaluation.predict import predict_by_ranks
from corank.training.run import Run
from corank.training.trainer import Trainer
from tests.support.hostile_bundles import NAMES, mutate_bytes, mutate_part
from tests.support.hostile_cases import VALUES, HostileFolder
from tests.support.hostile_input import mutate


class HostilePackings(HostileFolder):
    """Writes mutations of one packing, and trains and predicts on those that open."""

    def __init__(self, packed: Path, run: Run, folder: Path) -> None:
        """
        Args:
            packed: sound packed data.
            run: of their config.
            folder: for the cases, next to files that none may touch.
        """
        super().__init__(folder, "packed")
        self.plain = json.loads((packed / MANIFEST).read_bytes())
        self.files = {name: (packed / name).read_bytes() for name in self.plain["files"]}
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
                plain["files"][name] = len(files[name])
        shutil.rmtree(self.case.parent, ignore_errors=True)
        for name, raw in files.items():
            (self.case / name).parent.mkdir(parents=True, exist_ok=True)
            (self.case / name).write_bytes(raw)
        text = json.dumps(plain).encode()
        (self.case / MANIFEST).write_bytes(mutate_bytes(random_, text) if random_.random() < 0.05 else text)
        if random_.random() < 0.05:
            self.put_link(random_, self.case / random_.choice([*files, MANIFEST, "items"]))

    def open(self) -> None:
        """Open the packing, make a step of a training, and predict."""
        packed = PackedDataset.open(self.case)
        trainer = Trainer(self.run_of, packed)
        trainer.step(next(iter(trainer.reader.read_shuffled(0))))
        predict_by_ranks(trainer.model, packed, "test", Ranks(), names=trainer.model.networks)
        with packed.naming_damage():
            priors = packed.priors.as_of(packed.schema, packed.manifest.last)
            ItemRecords.of_packed(packed, priors, *packed.newest_items())

"""Trains small models of many sorts on some ranks, in float64, and writes the weights that they end with.

In float64 rounding cannot hide an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from corank.batches.ahead import pair_batches
from corank.batches.batch import Batch
from corank.core.settings import validate
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.datasets.feed.simulate import simulate_world
from corank.distributed.process_group import join_ranks
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import RowShards
from corank.training.config.config import Config
from corank.training.run import Run
from corank.training.trainer import Trainer

LEVELS = ["retrieved", "preranked", "ranked", "exposed"]
TOWERS = {"model": "towers", "name": "prerank", "keep": 6, "query": [16, 8], "item": [16, 8]}
RANK = {"model": "mlp", "name": "rank", "keep": 2, "hidden": [16, 8]}
CLICKS = [{"kind": "click", "stage": "prerank"}, {"kind": "click", "stage": "rank"}]
TAUGHT = {"kind": "distill", "teacher": "rank", "student": "prerank", "on": LEVELS[1:]}

EVERYTHING: dict[str, Any] = {
    "stages": [
        TOWERS | {"embeddings": "own"},
        {
            "model": "mlp",
            "name": "light",
            "keep": 4,
            "hidden": [8],
            "from_stages": ["prerank.score", "prerank.rank"],
        },
        RANK
        | {
            "din": {"history": "history", "attributes": ["brand"]},
            "dcn": {"layers": 1},
            "normalisation": "layer",
        },
    ],
    "teachers": [{"name": "teacher", "scores": ["production"], "hidden": [8]}],
    "losses": [
        *CLICKS,
        {"kind": "click", "stage": "light"},
        {"kind": "click", "stage": "teacher"},
        {"kind": "in_batch", "stage": "prerank"},
        {
            "kind": "unexposed",
            "stage": "prerank",
            "from": ["retrieved", "batch", "catalogue"],
            "per_request": 3,
        },
        *({**TAUGHT, "form": form, "warm_up": 3} for form in ("pointwise", "listwise")),
        {**TAUGHT, "form": "pairwise", "chunks": 4},
        {"kind": "distill", "teacher": "teacher", "student": "light", "on": ["exposed", "ranked"]},
        {"kind": "distill", "teacher": "production", "student": "light", "on": ["exposed", "ranked"]},
        *({"kind": "levels", "stage": "light", "form": form} for form in ("ranknet", "lambda", "softmax")),
        {"kind": "listwise", "stage": "light"},
        {"kind": "pairwise", "stage": "prerank", "temperature": 2.0},
        *(
            {"kind": "cascade", "form": form, "positive": ["exposed"]}
            for form in ("lcron", "arf_v2", "dftopk")
        ),
        {"kind": "info_nce", "stage": "prerank"},
    ],
    "train": {"average": 0.9},
}
"""Three stages, a teacher, attention, crosses, an average, and every loss."""
LAZY = {"optimiser": "lazy_adam", "lr": 0.01}

CASES: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "float32": EVERYTHING,
    # a stage learns in turn whose tables are frozen
    "alternate": {
        "stages": [TOWERS | {"table_gradient": False}, RANK],
        "losses": [*CLICKS, {"kind": "levels", "stage": "prerank", "form": "softmax"}],
        "train": {"mode": "alternate", "table": LAZY},
    },
    "separate": {
        "stages": [TOWERS | {"embeddings": "own"}, RANK],
        "losses": [*CLICKS, TAUGHT],
        "train": {"mode": "separate", "average": 0.9},
    },
    # ranks have no request, or none with a label
    "few requests": EVERYTHING | {"train": {"requests": 3}},
}
"""By name the parts of a config that differ from the world's own."""
STEPS = 6
"""Of each run, more than any loss warms up."""
WORLDS = (1, 2, 4)
"""Numbers of ranks."""


def runs(world: int) -> list[tuple[str, str]]:
    """The cases, and the placements of tables, that some ranks train, in this order; one rank trains all cases."""
    sharded = [(case, "sharded") for case in CASES]
    if world == 1:
        return sharded
    if world == 2:  # the last once more, to the same bits
        return [*sharded, *((case, "replicated") for case in CASES), ("everything", "sharded")]
    return [*sharded, ("few requests", "replicated")]


def make_base(folder: Path) -> None:
    """Write and pack a world that all cases train on."""
    simulate_world(folder, requests=500, candidates=12, users=40, items=120)
    base = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    base["data"] |= {"position": "position", "scores": {"production": {"column": "score_rank"}}}
    base["features"]["brand"]["dim"] = 4
    base["features"]["city"]["dim"] = 8
    # a batch has requests of several of its snapshots
    base["features"]["item_clicked"] = {"kind": "prior", "by": ["item_id"], "label": "click", "every": "1h"}
    (folder / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    config = _config(folder, "everything", "sharded")
    pack_log(config.data, config.declared, folder, folder / "packed", lambda line: None)


def _config(folder: Path, case: str, tables: str) -> Config:
    base = yaml.safe_load((folder / "base.yaml").read_text(encoding="utf-8"))
    changed = base | CASES[case]
    changed["train"] = {"requests": 20, "tables": tables, "precision": "fp32", **changed["train"]}
    return validate(Config, changed, case)


def train_cases(folder: Path, out: Path, last: int | None = None, steps: int = STEPS) -> None:
    """Train the first `last` cases, or all, as the rank of the environment; write what each ends with."""
    torch.set_num_threads(1)
    in_float = Tensor.float
    with join_ranks() as ranks:
        packed = PackedDataset.open(folder / "packed")
        for number, (case, tables) in enumerate(list(runs(ranks.world))[:last]):
            double = case != "float32"
            torch.set_default_dtype(torch.float64 if double else torch.float32)
            Tensor.float = Tensor.double if double else in_float  # type: ignore[method-assign]
            tensors = train_case(folder, packed, case, tables, ranks, steps)
            if ranks.first:
                save_file(tensors, out / f"{ranks.world}.{number}.safetensors")


def require_equal_ahead(folder: Path) -> None:
    """Fail unless batches that the ranks agree on ahead change no bit of any case, as the rank of the environment."""
    torch.set_num_threads(1)
    with join_ranks() as ranks:
        packed = PackedDataset.open(folder / "packed")
        for case, tables in runs(ranks.world)[:-1]:
            trainings, sent = [], []
            for ahead in (False, True):
                ranks.sent.clear()
                trainings.append(train_case(folder, packed, case, tables, ranks, STEPS, ahead))
                sent.append(dict(ranks.sent))
            for name, tensor in trainings[0].items():
                assert torch.equal(tensor, trainings[1][name]), (case, tables, name)
            assert sent[0] == sent[1], (case, tables)


def train_case(
    folder: Path, packed: PackedDataset, case: str, tables: str, ranks: Ranks, steps: int, ahead: bool = False
) -> dict[str, Tensor]:
    """Take some steps. Returns all weights, of tables whole, and the sums of the losses of all steps.

    `ahead`: whether a step agrees on the batch after it.
    """
    trainer = Trainer(Run(folder, _config(folder, case, tables), folder), packed, ranks)
    trainer.model.dtype = torch.get_default_dtype()
    sums: dict[str, Tensor] = {}
    for batches in _epochs(trainer, steps):
        for batch, following in pair_batches(batches, ahead):
            for name, mean in trainer.step(batch, following).items():
                sums[name] = sums[name] + mean if name in sums else mean
    tensors = {f"loss.{name}": total for name, total in sums.items()}
    rows = [trainer.model.layout.table_rows[table.shape[1]] for table in trainer.model.tables.parameters()]
    for sort, model in (("model", trainer.model), ("average", trainer.shipped())):
        of_tables = {f"tables.{name}" for name, _ in model.tables.named_parameters()}
        numbers = iter(rows)
        for name, weight in model.state_dict().items():
            split = name in of_tables and trainer.model.sharded
            tensors[f"{sort}.{name}"] = whole(weight, next(numbers), ranks) if split else weight
    for n, state in trainer.optimisers["table"].state_dict()["state"].items():
        for key, value in state.items():
            tensor = torch.as_tensor(value)
            split = tensor.dim() > 0 and trainer.model.sharded
            tensors[f"optimiser.{n}.{key}"] = whole(tensor, rows[n], ranks) if split else tensor
    _require_equal(tensors, ranks)
    return {name: tensor.clone() for name, tensor in tensors.items()}


def whole(shard: Tensor, rows: int, ranks: Ranks) -> Tensor:
    """A whole table of the shards of all ranks: (rows, ...). A collective."""
    shards, parts = RowShards(rows, ranks.world), ranks.gather(shard, "a whole table")
    table = shard.new_empty(rows, *shard.shape[1:])
    for rank, part in enumerate(parts):
        row = torch.from_numpy(shards.rows_of(rank))
        table[row[row < rows]] = part[row < rows]
    return table


def _require_equal(tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Fail unless all ranks have the same, bit for bit."""
    for name, tensor in tensors.items():
        for other in ranks.gather(tensor.reshape(-1), "a copy"):
            assert torch.equal(other, tensor.reshape(-1)), f"rank {ranks.rank}: {name}"


def _epochs(trainer: Trainer, steps: int) -> Iterator[Iterator[Batch]]:
    """So many batches in all, of one epoch or, in mode separate, of one for each stage."""
    epochs = trainer.epochs
    for _ in range(epochs):
        batches = islice(trainer.reader.read_shuffled(trainer.progress.epoch), steps // epochs)
        yield map(in_double, batches) if torch.get_default_dtype() == torch.float64 else batches
        trainer.progress.epoch += 1
        trainer.take_average()


def in_double(value: Any) -> Any:
    """The same batch with numbers of float64."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if isinstance(value, dict):
        return {key: in_double(part) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type | Ranks):
        return replace(value, **{f.name: in_double(getattr(value, f.name)) for f in fields(value)})
    return value

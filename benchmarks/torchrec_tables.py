"""TorchRec's row-wise sharding of a trainer's tables, for comparison: fused row-wise Adagrad, a plan by hand.

The versions fit one version of torch; pip installs them into a folder of their own.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from corank.batches.batch import TableLookup
from corank.features.encoding import PLACEMENTS, Placement
from corank.features.input_layout import Layout
from corank.training.trainer import Trainer

TORCH = "2.13"
"""The torch of the packages below."""
PACKAGES = [
    "torchrec==1.8.0",
    "fbgemm-gpu-cpu==1.8.0",
    "torchmetrics",
    "tensordict",
    "lightning-utilities",
    "pyre-extensions",
    "pyvers",
    "typing-inspect",
    "mypy-extensions",
    "tqdm",
    "cloudpickle",
]


def install_torchrec(folder: Path) -> str | None:
    """Install TorchRec into a folder. Returns why that cannot be; None if it is there."""
    if not torch.__version__.startswith(TORCH + "."):
        return f"its pinned release is built for torch {TORCH}, here is {torch.__version__}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, *PACKAGES], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


class TorchRecTables(nn.Module):
    """The tables of a layout without lists: a collection by placement, a table by feature, rows sharded over ranks."""

    def __init__(self, layout: Layout, lr: float) -> None:
        super().__init__()
        from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
        from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
        from torchrec.distributed.shard import shard
        from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
        from torchrec.distributed.types import ShardingEnv
        from torchrec.optim import RowWiseAdagrad
        from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

        self._jagged = KeyedJaggedTensor
        self._names: dict[Placement, list[str]] = {}
        self._offsets: dict[Placement, Tensor] = {}
        self.collections = nn.ModuleDict()
        world, place = dist.get_world_size(), torch.device("cpu")
        for placement in PLACEMENTS:
            if not layout.groups[placement]:
                continue
            (group,) = layout.groups[placement]
            placed = layout.schema.row_features(placement).ids
            names = self._names[placement] = [placed[column] for column in group.ids]
            self._offsets[placement] = torch.from_numpy(group.offsets.astype("int64"))
            configs = [
                EmbeddingBagConfig(
                    name=name,
                    embedding_dim=group.dim,
                    num_embeddings=layout.sizes[name],
                    feature_names=[name],
                )
                for name in names
            ]
            collection = EmbeddingBagCollection(device=torch.device("meta"), tables=configs)
            apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), {"lr": lr})
            plan = construct_module_sharding_plan(
                collection,
                {name: row_wise(compute_kernel="fused") for name in names},
                sharder=EmbeddingBagCollectionSharder(),
                local_size=world,
                world_size=world,
                device_type="cpu",
            )
            env = ShardingEnv.from_process_group(dist.group.WORLD)
            self.collections[placement] = shard(collection, plan, env=env, device=place)

    def forward(self, lookups: dict[int, TableLookup]) -> dict[int, tuple[Tensor, ...]]:
        """Bag sums by table dimension, as the tables give them that these replace."""
        ((dim, lookup),) = lookups.items()
        rows = [lookup.reads[p].row.long().view(-1, len(names)) for p, names in self._names.items()]
        # its ranks must read equally many rows
        most = torch.tensor([len(part) for part in rows])
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        waiting = [
            self._look_up(placement, part, int(count))
            for placement, part, count in zip(self._names, rows, most, strict=True)
        ]
        vectors = [
            pending.wait().values()[: len(part)].reshape(-1, dim)
            for pending, part in zip(waiting, rows, strict=True)
        ]
        return {dim: tuple(vectors)}

    @property
    def reached(self) -> list[bool]:
        """No table is left to sum: the backward pass has updated them."""
        return []

    def send_gradients(self) -> None:
        """Do nothing, for the same reason."""

    def sum_gradients(self, reached: Sequence[bool]) -> None:
        """Do nothing, for the same reason."""

    def _look_up(self, placement: Placement, rows: Tensor, count: int) -> Any:
        codes = torch.nn.functional.pad(rows - self._offsets[placement], (0, 0, 0, count - len(rows)))
        lengths = torch.ones(codes.numel(), dtype=torch.int32)
        return self.collections[placement](
            self._jagged(keys=self._names[placement], values=codes.t().reshape(-1), lengths=lengths)
        )


def use_torchrec(trainer: Trainer) -> None:
    """Put TorchRec's tables, and the optimiser that is fused into them, in the place of a trainer's."""
    tables = TorchRecTables(trainer.model.layout, trainer.config.train.table.lr)
    trainer.model.tables["shared"] = tables
    del trainer.optimisers["table"]

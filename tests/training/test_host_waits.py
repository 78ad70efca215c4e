"""On a GPU the host must not wait for numbers of a step. The meta device has none, and refuses whoever asks."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from corank.batches.ahead import move_batches
from corank.batches.batch import Batch
from corank.batches.sampling import Population
from corank.losses.base import FunnelSpec
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.testing.batches import random_batch
from corank.testing.losses import LEVELS, made_of
from corank.training.config.settings import TableOptimiser
from corank.training.optimisers import Average, table_optimiser
from corank.training.update import Update
from tests.losses.test_total import EVERY
from tests.models.test_joint import RANKERS, STAGES, TOTAL, drawn
from tests.support.history_batches import RAGGED, attended
from tests.support.models import joint

META = torch.device("meta")
WAITS = {
    "cascade-lcron": "how far apart the scores are decides how many of their powers fit a double",
    "cascade-arf_v2": "the same relaxed sort",
    "sees": "ranks among candidates are computed on the processor, as they are when serving",
}
"""What waits nevertheless, and why."""


class HostCopies(TorchDispatchMode):
    """Lists the operations that bring tensors from the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        given = [arg for arg in [*args, *(kwargs or {}).values()] if isinstance(arg, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        made = [result] if isinstance(result, torch.Tensor) else []
        if len({x.device.type for x in [*given, *made] if x.dim()}) > 1:
            self.names.append(str(func))
        return result


def take_step(
    model: JointModel, total: TotalLoss, batch: Batch, scored: Mapping[str, Population] | None = None
) -> None:
    """Take a step on the meta device, reading ahead; layers, which torch's own optimiser updates, stay as they are."""
    model = model.to(META)
    losses = total.of(None)
    update = Update(losses, model.with_earlier(losses.reads), scored or {}, [])
    tables, average = table_optimiser(model.tables.parameters(), TableOptimiser()), Average(model, 0.9)
    for made in move_batches(iter([batch]), META, update.prepare):
        with HostCopies() as copies:
            outputs = model.outputs(made, losses.reads, update.scored)
            losses(outputs, made, 1)[0].backward()
            average.before()
            tables.step()
            average.after()
        assert not copies.names


def require(waits: str, model: JointModel, total: TotalLoss, batch: Batch, **more: Any) -> None:
    if waits not in WAITS:
        take_step(model, total, batch, **more)
        return
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        take_step(model, total, batch, **more)


@pytest.mark.parametrize("values", EVERY, ids=lambda values: f"{values['kind']}-{values.get('form')}")
def test_no_loss_waits_for_the_device(values: dict[str, Any]) -> None:
    stages: list[TowersSettings | MlpSettings] = [
        TowersSettings(name="prerank", model="towers", value="click", keep=2),
        MlpSettings(name="rank", model="mlp", keep=1),
    ]
    labels = {stage.name: ["click"] for stage in stages}
    quotas = {stage.name: stage.keep for stage in stages}
    funnel = FunnelSpec(LEVELS, ["click"], labels, quotas, with_vectors=["prerank"])
    total = TotalLoss([made_of(values)], funnel)
    require(f"{values['kind']}-{values.get('form')}", joint(*stages), total, random_batch(3, requests=12)[0])


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("population", [None, {2: None}], ids=str)
def test_no_network_waits_for_the_device(ranker: str, population: Population | None) -> None:
    batch = drawn(1)
    if ranker == "attends":
        batch = attended([(9, [3, 0, 3]), (0, [5]), *RAGGED, (7, [0, 32])])[0]
    built = joint(STAGES[0], STAGES[1].model_copy(update=RANKERS[ranker]))
    require(ranker, built, TOTAL, batch, scored=None if population is None else {"rank": population})


@pytest.mark.parametrize("ahead", [True, False])
def test_batches_come_in_order_and_prepared_and_an_error_of_the_reader_comes_after_them(ahead: bool) -> None:
    batches, prepared = [random_batch(seed)[0] for seed in range(3)], list[Batch]()

    def read() -> Iterator[Batch]:
        yield from batches
        raise OSError("gone")

    moved = move_batches(read(), META, prepared.append, ahead)
    for batch in batches:
        assert len(next(moved)) == len(batch)
        assert any(made is batch for made in prepared)
    with pytest.raises(OSError, match="gone"):
        next(moved)

"""Trainings on a device of their own learn what they learn on the processor, and mix tensors of the two nowhere."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import corank
from corank.batches.ahead import move_batches
from corank.batches.batch import Batch
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.evaluation.predict import predict_by_ranks
from corank.losses.base import FunnelSpec
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.testing.batches import random_batch
from corank.testing.losses import LEVELS, made_of
from corank.training.callbacks import TrainingCheckpoint
from corank.training.config.config import Config
from corank.training.config.settings import TableOptimiser
from corank.training.optimisers import Average, optimisers
from corank.training.run import Run
from corank.training.trainer import Trainer
from corank.training.update import Update
from tests.lab.test_losses import EVERY as OF_LAB
from tests.lab.worlds import WORLDS
from tests.losses.test_total import EVERY
from tests.support.cases import Case
from tests.support.joined_ranks import JoinedRanks, train_an_epoch
from tests.support.marked_device import DEVICE, MarkedTensor, marked_device
from tests.support.models import joint
from tests.support.random_worlds import DERIVED, LISTED, LONG, RICH

CPU = torch.device("cpu")
Outcome = tuple[list[float], dict[str, torch.Tensor]]
"""Losses, and tensors by name."""


def rounded(precision: object) -> Any:
    """A precision whose cases `scripts/test all` alone runs."""
    return pytest.param(precision, marks=pytest.mark.thorough)


LAB = [values for values in OF_LAB if values["kind"] != "mimic"]
"""The losses of the lab but one, which needs a stage model of the lab: worlds of `DRAWN` have it."""


def on(device: torch.device) -> Any:
    """Lets trainings run on one of the two."""
    return marked_device() if device == DEVICE else nullcontext()


def test_the_device_refuses_to_mix_and_to_be_read_in_place() -> None:
    with marked_device():
        held = torch.ones(3, 2)
        there = held.to(DEVICE)
        assert isinstance(there, MarkedTensor) and there.device.type == DEVICE.type
        with pytest.raises(RuntimeError, match="mixes tensors of the device and of the processor"):
            torch.add(there, held)
        with pytest.raises(RuntimeError, match="mixes tensors of the device and of the processor"):
            torch.cat([there, held])
        with pytest.raises(RuntimeError, match="mixes tensors of the device and of the processor"):
            held[there[:, 0] > 0]
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        made = torch.arange(3, device=there.device) + torch.tensor([1, 2, 3], device=DEVICE)
        assert isinstance(made, MarkedTensor) and made.cpu().numpy().tolist() == [1, 3, 5]


def learn(model: JointModel, total: TotalLoss, batch: Batch, device: torch.device) -> Outcome:
    """Take three steps of every optimiser. Returns the losses, and the averaged weights on the processor."""
    with on(device):
        model.to(device)
        losses = total.of(None)
        computed = model.with_earlier(losses.reads)
        update = Update(losses, computed, {}, model.layers(computed))
        every, average = optimisers(model, TableOptimiser(), {}), Average(model, 0.9)
        values: list[float] = []
        for made in move_batches(iter([batch] * 3), device, update.prepare):
            model.zero_grad(set_to_none=True)
            loss, means = losses(model.outputs(made, losses.reads, update.scored), made, 1)
            assert {mean.device.type for mean in means.values()} == {device.type}
            loss.backward()
            average.before()
            for optimiser in every.values():
                optimiser.step()
            average.after()
            values.append(loss.item())
        return values, {name: tensor.cpu() for name, tensor in average.model().state_dict().items()}


def assert_alike(outcomes: list[Outcome], exact: bool) -> None:
    theirs, ours = outcomes
    rtol, atol = (1e-3, 1e-4) if exact else (0.1, 0.1)
    assert ours[0] == pytest.approx(theirs[0], rel=rtol, abs=atol)
    for name, tensor in ours[1].items():
        torch.testing.assert_close(tensor, theirs[1][name], rtol=rtol, atol=10 * atol, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, rounded(torch.bfloat16)], ids=str)
@pytest.mark.parametrize(
    "values", [*EVERY, *LAB], ids=lambda values: f"{values['kind']}-{values.get('form')}"
)
def test_every_loss_teaches_on_the_device_as_on_the_processor(
    values: dict[str, Any], dtype: torch.dtype
) -> None:
    stages: list[TowersSettings | MlpSettings] = [
        TowersSettings(name="first", model="towers", value="click", keep=3),
        TowersSettings(name="prerank", model="towers", value="click", keep=2),
        MlpSettings(name="rank", model="mlp", keep=1),
    ]
    labels = {stage.name: ["click"] for stage in stages}
    quotas = {stage.name: stage.keep for stage in stages}
    funnel = FunnelSpec(LEVELS, ["click"], labels, quotas, with_vectors=["first", "prerank"])
    outcomes = []
    for device in (CPU, DEVICE):
        total = TotalLoss([made_of(values)], funnel)
        model = joint(*stages, loss_parameters=total.parameters())
        model.dtype = dtype
        outcomes.append(learn(model, total, random_batch(3, requests=12)[0], device))
    assert_alike(outcomes, exact=dtype == torch.float32)


def train_epoch(config: Config, packed: PackedDataset, base: Path, device: torch.device) -> Outcome:
    """Train an epoch and predict. Returns the losses of each step, and the logits."""
    with on(device):
        trainer = Trainer(Run(base / "run", config, base), packed)
        reader, values = trainer.reader, list[float]()
        for made in move_batches(reader.read_shuffled(0, 0), trainer.device, trainer.prepare):
            values += [mean.item() for mean in trainer.step(made).values()]
        shipped = trainer.shipped()
        predictions = predict_by_ranks(shipped, packed, "valid", Ranks(), names=shipped.networks)
    assert predictions is not None
    logits = {
        f"{stage}.{label}": torch.from_numpy(z)
        for stage, by_label in predictions.logits.items()
        for label, z in by_label.items()
    }
    return values, logits


def averaged(config: Config, precision: str) -> Config:
    """A config with a running average, in a precision."""
    train = config.train.model_copy(update={"precision": precision, "average": 0.9})
    return config.model_copy(update={"train": train})


DRAWN = {"rich": RICH, "derived": DERIVED, "listed": LISTED, "long": LONG, **WORLDS}
"""Every stage model and option, the lab's included."""


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("world", DRAWN)
def test_every_stage_model_trains_and_predicts_on_the_device(
    world: str, precision: str, tmp_path: Path
) -> None:
    case = Case.of(tmp_path, DRAWN[world])
    config = averaged(case.config, precision)
    outcomes = [train_epoch(config, case.packed, tmp_path, device) for device in (CPU, DEVICE)]
    assert_alike(outcomes, exact=precision == "fp32")


@pytest.mark.thorough
@pytest.mark.parametrize("tables", ["replicated", "sharded"])
def test_ranks_train_together_on_the_device(tables: str, small_world: Path, tmp_path: Path) -> None:
    asked = {
        "config": str(small_world / "config.yaml"),
        "overrides": ["train.requests=128", "train.average=0.9", f"train.tables={tables}"],
    }
    losses = []
    for marked in (False, True):
        folder = tmp_path / str(marked)
        folder.mkdir()
        (folder / "asked.json").write_text(json.dumps(asked | {"marked": marked}))
        (kind, ours), (_, theirs) = JoinedRanks(2, train_an_epoch, folder).results()
        assert kind == "value" and ours == theirs
        losses.append(ours)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


SHORT = ("train.requests=128", "train.epochs=2", "train.average=0.9", "train.checkpoint_every=1")
RUNS: dict[str, tuple[str, ...]] = {
    "joint": (),
    "trees": (
        "stages.1={name: rank, model: trees, keep: 6, trees: 4, min_rows: 5}",
        "losses=[{kind: click, stage: prerank}]",
    ),
    "separate": ("train.mode=separate", "stages.0.embeddings=own", "train.table.optimiser=lazy_adam"),
}


class Stops(corank.Callback):
    """Interrupts a training at its second checkpoint."""

    def __init__(self) -> None:
        self.left = 2

    def on_checkpoint(self, event: TrainingCheckpoint) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.thorough
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_of_the_device_is_resumed_exported_and_continued_from(
    kind: str, small_world: Path, tmp_path: Path
) -> None:
    config, given = small_world / "config.yaml", (*SHORT, *RUNS[kind])
    plain = corank.train(config, given, folder=tmp_path / "plain")
    with marked_device() as device:
        whole = corank.train(config, given, folder=tmp_path / "whole")
        assert device.operations
        with pytest.raises(KeyboardInterrupt):
            corank.train(config, given, [Stops()], folder=tmp_path / "resumed")
        resumed = corank.train(config, given, folder=tmp_path / "resumed", resume=True)
        assert resumed.history == whole.history
        corank.train(config, given, folder=tmp_path / "next", continue_from=tmp_path / "whole")
    for ours, theirs in zip(whole.history, plain.history, strict=True):
        for name, value in ours.items():
            assert value == (None if value is None else pytest.approx(theirs[name], rel=0.02, abs=0.02)), name
    corank.export(tmp_path / "whole", tmp_path / "bundle")
    assert corank.Funnel.open(tmp_path / "bundle").manifest.stages

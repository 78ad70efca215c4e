"""A loss of a user's own that keeps a queue of items' vectors between batches: saved, resumed, divided over ranks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.batches.sampling import Population
from corank.core.errors import CheckpointError, ConfigError
from corank.distributed.ranks import Ranks
from corank.losses.base import LOSSES, FunnelSpec, Loss
from corank.losses.click import ClickLoss
from corank.losses.total import TotalLoss
from corank.models.stage_io import StageOutput
from corank.testing.parts import registered
from corank.testing.worlds import trained_run
from corank.training.checkpoints.checkpoint import Checkpoint, SplitTable, reading
from corank.training.checkpoints.checkpoint_files import load
from corank.training.checkpoints.loss_state import LossState
from corank.training.run import Run
from tests.support.interruptions import Interrupting, interrupt, same
from tests.support.shared import small_world


class QueueLoss(Loss):
    """A clicked candidate must lead the items of earlier batches: their vectors, as they were then, are negatives."""

    kind: Literal["queue"]
    stage: str
    length: int = 10_000
    dim: int = 8

    @property
    def name(self) -> str:
        return f"{self.stage}.queue"

    @property
    def learner(self) -> str:
        return self.stage

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_label(self.stage, "click", f"{key}.stage")

    def population(self, funnel: FunnelSpec) -> Population:
        return {len(funnel.levels) - 1: None}

    def state(self, funnel: FunnelSpec) -> Mapping[str, Tensor]:
        return {
            "vectors": torch.zeros(self.length, self.dim),
            "turn": torch.zeros(self.length, dtype=torch.int64),  # when a row was written; 0: not yet
        }

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        output, kept = outputs[self.stage], outputs[self.stage].loss_state[self.name]
        assert output.vectors is not None
        enqueue(kept["vectors"], kept["turn"], output.vectors.items()[: len(batch.share)].detach().float())
        z = output.vectors.query.float() @ kept["vectors"].t() * output.vectors.scale + output.vectors.bias
        rest = z.masked_fill(kept["turn"] == 0, -1e30).logsumexp(1).index_select(0, batch.request_of)
        own = output.logits["click"]
        return torch.logaddexp(own, rest) - own, batch.label_weight("click") * (batch.labels["click"] > 0)


def enqueue(vectors: Tensor, turn: Tensor, items: Tensor) -> None:
    """Write items over the oldest rows."""
    oldest = turn.argsort(stable=True)[: len(items)]
    vectors[oldest], turn[oldest] = items[: len(oldest)], turn.max() + 1


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    with registered(LOSSES, queue=QueueLoss):
        yield


OVERRIDES = [
    "train.requests=24",
    "train.epochs=1",
    "train.checkpoint_every=2",
    "stages.0={name: prerank, model: towers, keep: 6, cuts: [preranked], query: [8], item: [8]}",
    "losses=[{kind: click, stage: rank}, {kind: queue, stage: prerank}]",
]
VECTORS, TURN = "loss.prerank.queue.vectors", "loss.prerank.queue.turn"


def test_what_a_loss_keeps_is_resumed_and_goes_over_to_a_run_that_continues(tmp_path: Path) -> None:
    config = small_world() / "config.yaml"
    whole = trained_run(config, tmp_path / "whole", *OVERRIDES)
    held = load(whole.latest)
    assert held.shape(VECTORS) == (10_000, 8)
    turn = held.whole(TURN)
    assert turn.max() > 4 and (held.whole(VECTORS)[turn > 0] != 0).any(1).all()
    assert not any(name.startswith("loss.") for name in load(whole.folder / "model").names), (
        "it is not shipped"
    )

    interrupt(Interrupting(1), config, OVERRIDES, folder=tmp_path / "broken")
    assert 0 < load(Run.open(tmp_path / "broken").latest).whole(TURN).max() < turn.max()
    resumed = trained_run(config, tmp_path / "broken", *OVERRIDES, resume=True)
    assert same(resumed, whole) and same(resumed, whole, "latest")

    again = trained_run(config, tmp_path / "again", *OVERRIDES, "train.epochs=0", continue_from=whole.folder)
    assert torch.equal(load(again.latest).whole(VECTORS), held.whole(VECTORS))
    shorter = [*OVERRIDES, "losses.1.length=300", "train.epochs=0"]
    begun = trained_run(config, tmp_path / "shorter", *shorter, continue_from=whole.folder)
    assert not load(begun.latest).whole(TURN).any(), "a queue of another length begins empty"


FUNNEL = FunnelSpec(["exposed"], ["click"], {"prerank": ["click"], "rank": ["click"]})
CPU = torch.device("cpu")


def held_by(queue: QueueLoss, rank: int, world: int) -> tuple[LossState, Mapping[str, Tensor]]:
    """What a loss keeps on one of several ranks, and what it sees of that."""
    click = ClickLoss(kind="click", stage="rank")
    state = LossState(TotalLoss([click, queue], FUNNEL), Ranks(rank, world), CPU)
    outputs = state.give({"prerank": StageOutput({}), "rank": StageOutput({})})
    assert outputs["rank"].loss_state == {}
    return state, outputs["prerank"].loss_state["prerank.queue"]


@pytest.mark.parametrize("length", [10_000, 256, 100])
@pytest.mark.parametrize("worlds", [(1, 2), (2, 1), (2, 4), (4, 3)])
def test_its_rows_are_divided_over_ranks_whatever_their_number(length: int, worlds: tuple[int, int]) -> None:
    queue = QueueLoss(kind="queue", stage="prerank", length=length, dim=2)
    before, after = worlds
    parts, filled = [], []
    for rank in range(before):
        state, kept = held_by(queue, rank, before)
        kept["vectors"].copy_(torch.rand(kept["vectors"].shape))
        kept["turn"].fill_(rank + 1)
        filled.append(kept["vectors"])
        parts.append(state.add_to(Checkpoint({}, {})))
    assert sum(map(len, filled)) == length
    tables = {
        name: SplitTable(length, tuple(part for one in parts for part in one.tables[name].parts))
        for name in (VECTORS, TURN)
    }
    held = Checkpoint({}, {}, tables)
    assert held.whole(VECTORS).sum().item() == pytest.approx(
        sum(part.sum().item() for part in filled), rel=1e-5
    )
    assert held.whole(TURN).bincount(minlength=before + 1).tolist() == [0, *map(len, filled)]
    taken = []
    for rank in range(after):
        state, kept = held_by(queue, rank, after)
        state.restore(held)
        taken += kept["vectors"].flatten().tolist()
    assert sorted(taken) == sorted(held.whole(VECTORS).flatten().tolist())


@pytest.mark.parametrize(
    "spoil", [lambda tables: tables.pop(TURN), lambda tables: tables.update({TURN: tables[VECTORS]})]
)
def test_a_checkpoint_of_another_state_is_refused(spoil: object) -> None:
    assert callable(spoil)
    state, _ = held_by(QueueLoss(kind="queue", stage="prerank", length=100, dim=2), 0, 1)
    tables = dict(state.add_to(Checkpoint({}, {})).tables)
    spoil(tables)
    told = "latest: damaged, or of another release .*; train again"
    with pytest.raises(CheckpointError, match=told), reading(Path("latest")):
        state.restore(Checkpoint({}, {}, tables))


def test_two_losses_of_one_name_may_not_both_keep_something() -> None:
    queue = QueueLoss(kind="queue", stage="prerank")
    total = TotalLoss([queue, queue.model_copy(update={"weight": 0.5})], FUNNEL)
    with pytest.raises(ConfigError, match=r"two are called 'prerank\.queue' and keep a state"):
        LossState(total, Ranks(), CPU)

"""Networks score some candidates of a batch: scores and gradients equal those of scoring all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.batches.candidate_subset import CandidateSubset
from corank.models.joint import JointModel
from corank.models.settings.mlp import DinSettings, MlpSettings, TeacherSettings
from corank.models.settings.sequence_encoder import SequenceEncoderSettings
from corank.models.settings.two_tower import TowersSettings
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.history_batches import RAGGED, attended
from tests.support.loss_cases import requests

PRERANK = TowersSettings(name="prerank", model="towers", value="click", keep=3, query=[8, 4], item=[4])
RANK = MlpSettings(name="rank", model="mlp", keep=2, hidden=[8, 4], members=2)
TEACHER = TeacherSettings(name="teacher", scores=["served"], hidden=[8])
NAMES = ["prerank", "rank", "teacher"]


def model(rank: MlpSettings = RANK) -> JointModel:
    torch.manual_seed(0)
    built = JointModel([PRERANK, rank], LAYOUT, [TEACHER])
    with torch.no_grad():
        for table in built.tables.parameters():
            table.normal_()
    return built


def drawn(seed: int, size: int = 30) -> Batch:
    """Many candidates a request, with production scores."""
    rng = np.random.default_rng(seed)
    made = requests([rng.permutation([2, *rng.integers(0, 2, size)]).tolist() for _ in range(4)])
    return replace(made, scores={"served": torch.from_numpy(rng.normal(size=len(made)).astype(np.float32))})


def gradients(built: JointModel, z: Tensor) -> dict[str, Tensor]:
    built.zero_grad(set_to_none=True)
    (z * torch.arange(1, len(z) + 1)).sum().backward()
    gradient_of = {name: p.grad for name, p in built.named_parameters() if p.grad is not None}
    return {name: g.to_dense() if g.is_sparse else g for name, g in gradient_of.items()}


SEES = RANK.model_copy(update={"members": None, "from_stages": ["prerank.score", "prerank.rank"]})
ATTENDS = RANK.model_copy(update={"din": DinSettings(history="seen", attributes=["tags"])})


ENCODER = DinSettings(history="seen", attributes=["tags"], encoder=SequenceEncoderSettings())
ENCODES = RANK.model_copy(update={"din": ENCODER})


@pytest.mark.parametrize("population", [{2: None}, {0: None, 2: None}, {7: None}], ids=str)
@pytest.mark.parametrize(
    "rank", [RANK, SEES, ATTENDS, ENCODES], ids=["members", "sees", "attends", "encodes"]
)
def test_a_network_says_of_some_candidates_what_it_says_of_all(
    rank: MlpSettings, population: dict[int, int | None]
) -> None:
    batch = drawn(1)
    if rank.din is not None:
        batch = attended([(9, [3, 0, 3]), (0, [5]), *RAGGED, (7, [0, 32])])[0]
        level = torch.arange(len(batch), dtype=torch.uint8) % 3
        batch = replace(batch, level=level, scores={"served": torch.zeros(len(batch))})
    built, chosen = model(rank), batch.in_population(population)
    whole = built.outputs(batch, NAMES)
    some = built.outputs(batch, NAMES, {"rank": population, "teacher": population})
    assert torch.equal(some["prerank"].logits["click"], whole["prerank"].logits["click"])
    for name in ("rank", "teacher"):
        ours, all_ = some[name].logits["click"], whole[name].logits["click"]
        assert not ours[~chosen].any()
        torch.testing.assert_close(ours[chosen], all_[chosen], rtol=1e-5, atol=1e-6)
        mine, theirs = gradients(built, ours), gradients(built, all_ * chosen)
        assert mine.keys() == theirs.keys()
        for parameter, gradient in mine.items():
            torch.testing.assert_close(gradient, theirs[parameter], rtol=1e-4, atol=1e-4)
    if rank.members is not None:
        ours, all_ = some["rank"].members["click"], whole["rank"].members["click"]
        torch.testing.assert_close(ours[chosen], all_[chosen], rtol=1e-5, atol=1e-6)


def test_the_indices_are_those_of_the_chosen_alone() -> None:
    batch, _ = random_batch(4)
    chosen = torch.arange(len(batch)) % 3 != 1
    subset = CandidateSubset.of(batch, chosen)
    assert subset.index.tolist() == torch.nonzero(chosen).squeeze(1).tolist()
    for sums, of in ((subset.requests, subset.request_of), (subset.items, subset.item_of)):
        assert sums.start is not None
        for n, (a, b) in enumerate(zip(sums.start[:-1], sums.start[1:], strict=True)):
            assert sums.row[a:b].tolist() == torch.nonzero(of == n).squeeze(1).tolist()

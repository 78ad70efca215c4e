"""A stage's inputs from earlier stages: their scores and ranks, without gradients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corank.batches.batch import Batch
from corank.core.errors import ConfigError
from corank.core.ordering import soft_ranks
from corank.losses.base import FunnelSpec
from corank.losses.settings.click import ClickLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.training.config.config_file import read
from tests.support.configs import TEXT, refused
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.loss_cases import logits_of
from tests.support.models import grad_of, mlp, two_tower

PRERANK = TowersSettings(name="prerank", model="towers", value="click", keep=3, query=[8, 4], item=[4])
TOTAL = TotalLoss(
    [ClickLoss(kind="click", stage="rank")], FunnelSpec(["cut", "exposed"], ["click"], {"rank": ["click"]})
)


def rank(name: str = "rank", *seen: str, **changes: object) -> MlpSettings:
    fields = {"name": name, "model": "mlp", "keep": 2, "hidden": [8, 4], "from_stages": list(seen)}
    return MlpSettings.model_validate(fields | changes)


def model(*stages: MlpSettings, seed: int = 0) -> JointModel:
    torch.manual_seed(seed)
    built = JointModel([PRERANK, *stages], LAYOUT)
    with torch.no_grad():
        for table in built.tables.parameters():
            table.normal_()
    return built


def shown(built: JointModel, batch: Batch, stage: str = "rank") -> tuple[Tensor, dict[str, StageOutput]]:
    """The stage's input from earlier stages, and the outputs of all stages."""
    received: list[StageInputs] = []
    hook = built.stages[stage].register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    outputs = built(batch)
    hook.remove()
    assert len(received) == 1 and received[0].earlier is not None
    assert not received[0].earlier[len(batch) :].any()
    return received[0].earlier[: len(batch)], outputs


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_a_stage_sees_the_logit_and_the_rank_in_the_order_asked(seed: int, sampled: bool) -> None:
    batch, _ = random_batch(seed)
    weight = np.random.default_rng(seed).integers(0, 4, len(batch)).astype(np.float32) if sampled else None
    batch = replace(batch, represents=None if weight is None else torch.from_numpy(weight))
    seen, outputs = shown(model(rank("rank", "prerank.rank", "prerank.score"), seed=seed), batch)
    z, start = outputs["prerank"].logits["click"].detach(), np.cumsum([0, *np.bincount(batch.request_of)])
    assert not seen.requires_grad and seen.shape == (len(batch), 2)
    assert torch.equal(seen[:, 1], z)
    assert np.array_equal(seen[:, 0].numpy(), soft_ranks(z.numpy(), start, weight))


def test_it_enters_the_first_layer_alone() -> None:
    batch, by_row = random_batch(2)
    built = model(rank("rank", "prerank.score", "prerank.rank"))
    seen, outputs = shown(built, batch)
    stage, inputs = mlp(built), built.inputs(batch)
    assert stage.earlier is not None
    query, item = inputs["query"][batch.request_of], inputs["item"][batch.item_of]
    first = (
        stage.first(torch.cat((query, item, inputs["cross"][: len(batch)]), 1))
        + seen @ stage.earlier.weight.T
    )
    torch.testing.assert_close(
        outputs["rank"].logits["click"], stage.above(first).logits["click"], rtol=1e-4, atol=1e-5
    )
    by_score = model(rank("rank", "prerank.score"))
    torch.testing.assert_close(logits_of(by_score(batch)), logits_of(by_score(by_row)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", ["score", "rank"])
def test_no_gradient_reaches_the_earlier_stage(what: str) -> None:
    batch, _ = random_batch(2)
    built = model(rank("rank", f"prerank.{what}", embeddings="own"))
    TOTAL(built(batch), batch, 1)[0].backward()
    own = {n for n, _ in built.named_parameters() if n.startswith(("stages.rank.", "tables.rank."))}
    assert {n for n, p in built.named_parameters() if p.grad is not None} == own
    earlier = mlp(built).earlier
    assert earlier is not None and grad_of(earlier.weight).any()


def test_it_sees_what_the_earlier_stage_says_now() -> None:
    batch, _ = random_batch(2)
    built, plain = model(rank("rank", "prerank.score")), model(rank())
    before, apart = built(batch)["rank"].logits["click"], plain(batch)["rank"].logits["click"]
    with torch.no_grad():
        for one in (built, plain):
            two_tower(one).bias.add_(1)
    earlier = mlp(built).earlier
    assert earlier is not None and earlier.weight.shape == (8, 1) and mlp(plain).earlier is None
    assert not torch.allclose(built(batch)["rank"].logits["click"], before)
    assert torch.equal(plain(batch)["rank"].logits["click"], apart)
    assert built.earlier == {"rank": [("prerank", "score")]} and plain.earlier == {}


def test_asked_for_one_stage_it_runs_what_that_needs_and_returns_it_alone() -> None:
    batch, _ = random_batch(2)
    last = [rank("middle"), rank("other", "prerank.score"), rank("rank", "other.score")]
    built = model(*last)
    whole = built(batch)
    assert list(whole) == ["prerank", "middle", "other", "rank"]
    ran: list[str] = []
    for name, stage in built.stages.items():
        stage.register_forward_hook(lambda *_, name=name: ran.append(name))
    outputs = built.outputs(batch, ["rank"])
    assert ran == ["prerank", "other", "rank"] and list(outputs) == ["rank"]
    assert torch.equal(outputs["rank"].logits["click"], whole["rank"].logits["click"])
    ran.clear()
    assert list(built.outputs(batch, ["middle"])) == ran == ["middle"]
    ran.clear()
    assert list(built.outputs(batch, ["rank", "prerank"])) == ["rank", "prerank"]
    assert ran == ["prerank", "other", "rank"]


def test_of_several_labels_it_sees_the_one_that_orders() -> None:
    batch, _ = random_batch(2)
    first = rank("first", labels=["click", "order"], value="2 * order + click")
    seen, outputs = shown(model(first, rank("rank", "first.score")), batch)
    assert torch.equal(seen[:, 0], outputs["first"].logits["order"])
    assert not torch.equal(seen[:, 0], outputs["first"].logits["click"])


def test_a_model_tells_whether_it_needs_ranks() -> None:
    assert model(rank("rank", "prerank.score", "prerank.rank")).sees_ranks
    assert not model(rank("rank", "prerank.score")).sees_ranks and not model(rank()).sees_ranks


THREE = (
    "stages=[{name: a, model: towers, keep: 100}, {name: b, model: mlp, keep: 50}, {name: c, model: mlp, keep: 10}]",
    "losses=[{kind: click, stage: c}, {kind: click, stage: b}, {kind: click, stage: a}]",
    "train={}",
)
WRONG = {
    "stages.1.from_stages=[z.score]": "stages.1.from_stages: 'z' is no stage before 'b'; there are a",
    "stages.1.from_stages=[c.score]": "stages.1.from_stages: 'c' is no stage before 'b'; there are a",
    "stages.1.from_stages=[b.score]": "stages.1.from_stages: 'b' is no stage before 'b'; there are a",
    "stages.2.from_stages=[c.score]": "stages.2.from_stages: 'c' is no stage before 'c'; there are a, b",
    "stages.2.from_stages=[a.score, b.rank]": "stages.2.from_stages: 'b' ranks only what 'a' keeps, yet all "
    "candidates in training: its rank would mean two things; write b.score",
    "stages.2.from_stages=[a]": "stages.c.from_stages: expected STAGE.score or STAGE.rank; received 'a'",
    "stages.2.from_stages=[a.logit]": "stages.c.from_stages: expected STAGE.score or STAGE.rank; received 'a.logit'",
    "stages.2.from_stages=[a.place]": "stages.c.from_stages: `place` is now called `rank`; write a.rank",
    "stages.2.from_stages=[.score]": "stages.c.from_stages: expected STAGE.score or STAGE.rank; received '.score'",
    "stages.0.from_stages=[b.score]": "stages.0: unknown key 'from_stages'",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.mark.parametrize("override", WRONG)
def test_a_config_is_told_what_it_may_see(path: Path, override: str) -> None:
    assert refused(path, *THREE, override).startswith(WRONG[override])


def test_the_first_stage_has_none_before_it(path: Path) -> None:
    alone = "stages=[{name: a, model: mlp, keep: 9, from_stages: [b.score]}]"
    message = "stages.0.from_stages: 'b' is no stage before 'a'; there are none"
    assert refused(path, *THREE, alone, "losses=[{kind: click, stage: a}]") == message


def test_what_is_seen_must_train_before(path: Path) -> None:
    seen = [*THREE, "stages.2.from_stages=[a.rank, b.score]"]
    separate = [*seen, "train.mode=separate", "stages.0.embeddings=own", "stages.1.embeddings=own"]
    assert refused(path, *separate) == (
        "stages.2.from_stages: 'a' trains after 'c' in train.mode: separate, where the last stage is first; "
        "write joint or alternate"
    )
    for mode in ("joint", "alternate"):
        stage = read(path, [*seen, f"train.mode={mode}"]).stage("c")
        assert isinstance(stage, MlpSettings) and stage.earlier() == [("a", "rank"), ("b", "score")]
    assert read(path, [*separate, "stages.2.from_stages=[]"]).train.mode == "separate"
    with pytest.raises(ConfigError, match="received 'rank'"):
        rank("rank", "rank").earlier()

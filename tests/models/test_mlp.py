"""An MLP's cross layers, and its inputs from earlier stages, against the formulas written out."""

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
from corank.losses.click import ClickLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.mlp import Dcn
from corank.models.named_axes import number
from corank.models.settings.mlp import DcnSettings, MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.testing.batches import random_batch
from corank.training.config.config_file import read
from tests.support.configs import refused, shop
from tests.support.loss_cases import logits_of
from tests.support.models import grad_of, joint, linears, mlp, plain_rows, two_tower

PRERANK = TowersSettings(name="prerank", value="click", keep=3, query=[8, 4], item=[4])
TOTAL = TotalLoss(
    [ClickLoss(kind="click", stage="rank")], FunnelSpec(["cut", "exposed"], ["click"], {"rank": ["click"]})
)


@pytest.mark.parametrize(("rank", "layers"), [(None, 3), (2, 2), (7, 3)])
def test_cross_layers_are_the_formula(rank: int | None, layers: int) -> None:
    torch.manual_seed(0)
    dcn, first = Dcn(DcnSettings(layers=layers, rank=rank), number("x", 4)), torch.randn(6, 4)
    x = x0 = first.double().numpy()
    for n in range(layers):
        up, bias = (p.detach().double().numpy() for p in (linears(dcn.up)[n].weight, linears(dcn.up)[n].bias))
        down = np.eye(4) if rank is None else linears(dcn.down)[n].weight.detach().double().numpy()
        x = x0 * (x @ down.T @ up.T + bias) + x
    np.testing.assert_allclose(dcn.cross(first).detach().numpy(), x, rtol=1e-4, atol=1e-5)


def test_a_ranker_judges_by_what_is_deep_and_what_is_crossed() -> None:
    batch, _ = random_batch(4)
    built = joint(rank(hidden=[16, 8], dcn={"rank": 3}))
    stage = mlp(built)
    assert stage.dcn is not None
    rows = plain_rows(built.inputs(batch), batch)
    deep = torch.relu(linears(stage.hidden)[0](torch.relu(stage.first(rows))))
    expected = stage.heads(torch.cat((deep, stage.dcn.cross(rows)), 1)).squeeze(1)
    torch.testing.assert_close(built(batch)["rank"].logits["click"], expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        stage.heads.get_parameter("weight")[:, :8] = 0
    assert built(batch)["rank"].logits["click"].std() > 0.01, "the crossed half reaches the logit by itself"


# What a stage sees of earlier ones


def rank(*seen: str, name: str = "rank", **changes: object) -> MlpSettings:
    fields = {"name": name, "keep": 2, "hidden": [8, 4], "from_stages": list(seen)}
    return MlpSettings.model_validate(fields | changes)


def shown(built: JointModel, batch: Batch) -> tuple[Tensor, dict[str, StageOutput]]:
    """What `rank` sees of earlier stages, and the outputs of all stages."""
    received: list[StageInputs] = []
    hook = built.stages["rank"].register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
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
    built = joint(PRERANK, rank("prerank.rank", "prerank.score"), seed=seed)
    seen, outputs = shown(built, batch)
    z, start = outputs["prerank"].logits["click"].detach(), np.cumsum([0, *np.bincount(batch.request_of)])
    assert built.sees_ranks and not seen.requires_grad and seen.shape == (len(batch), 2)
    assert torch.equal(seen[:, 1], z)
    assert np.array_equal(seen[:, 0].numpy(), soft_ranks(z.numpy(), start, weight))


def test_it_enters_the_first_layer_alone_and_is_what_the_stage_says_now() -> None:
    batch, by_row = random_batch(2)
    built = joint(PRERANK, rank("prerank.score", "prerank.rank"))
    seen, outputs = shown(built, batch)
    stage = mlp(built)
    assert stage.earlier is not None
    first = stage.first(plain_rows(built.inputs(batch), batch)) + seen @ stage.earlier.weight.T
    before = outputs["rank"].logits["click"]
    torch.testing.assert_close(before, stage.above(first).logits["click"], rtol=1e-4, atol=1e-5)
    by_score, plain = joint(PRERANK, rank("prerank.score")), joint(PRERANK, rank())
    torch.testing.assert_close(logits_of(by_score(batch)), logits_of(by_score(by_row)), rtol=1e-4, atol=1e-5)
    assert by_score.earlier == {"rank": [("prerank", "score")]} and not by_score.sees_ranks
    assert plain.earlier == {} and mlp(plain).earlier is None and not plain.sees_ranks
    apart = plain(batch)["rank"].logits["click"]
    with torch.no_grad():
        for one in (built, plain):
            two_tower(one).bias.add_(1)
    assert not torch.allclose(built(batch)["rank"].logits["click"], before)
    assert torch.equal(plain(batch)["rank"].logits["click"], apart)


@pytest.mark.parametrize("what", ["score", "rank"])
def test_no_gradient_reaches_the_earlier_stage(what: str) -> None:
    batch, _ = random_batch(2)
    built = joint(PRERANK, rank(f"prerank.{what}", embeddings="own"))
    TOTAL(built(batch), batch, 1)[0].backward()
    own = {n for n, _ in built.named_parameters() if n.startswith(("stages.rank.", "tables.rank."))}
    assert {n for n, p in built.named_parameters() if p.grad is not None} == own
    earlier = mlp(built).earlier
    assert earlier is not None and grad_of(earlier.weight).any()


def test_of_several_labels_it_sees_the_one_that_orders() -> None:
    batch, _ = random_batch(2)
    first = rank(name="first", labels=["click", "order"], value="2 * order + click")
    seen, outputs = shown(joint(PRERANK, first, rank("first.score")), batch)
    assert torch.equal(seen[:, 0], outputs["first"].logits["order"])
    assert not torch.equal(seen[:, 0], outputs["first"].logits["click"])


THREE = (
    "stages=[{name: a, model: towers, keep: 100}, {name: b, model: mlp, keep: 50}, {name: c, model: mlp, keep: 10}]",
    "losses=[{kind: click, stage: c}, {kind: click, stage: b}, {kind: click, stage: a}]",
    "train={}",
)
EXPECTED = "stages.c.from_stages: expected STAGE.score or STAGE.rank; received"
WRONG = {
    "stages.1.from_stages=[z.score]": "stages.1.from_stages: 'z' is no stage before 'b'; there are a",
    "stages.2.from_stages=[a.score, b.rank]": "stages.2.from_stages: 'b' ranks only what 'a' keeps, yet all "
    "candidates in training: its rank would mean two things; write b.score",
    "stages.2.from_stages=[a]": f"{EXPECTED} 'a'",
    "stages.2.from_stages=[a.place]": "stages.c.from_stages: `place` is now `rank`; write a.rank",
    "stages.0.from_stages=[b.score]": "stages.0: unknown key 'from_stages'",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_config_is_told_what_it_may_see(tmp_path: Path, override: str) -> None:
    assert refused(shop(tmp_path), *THREE, override).startswith(WRONG[override])


def test_what_is_seen_must_train_before(tmp_path: Path) -> None:
    path, seen = shop(tmp_path), [*THREE, "stages.2.from_stages=[a.rank, b.score]"]
    separate = [*seen, "train.mode=separate", "stages.0.embeddings=own", "stages.1.embeddings=own"]
    assert refused(path, *separate) == (
        "stages.2.from_stages: 'a' trains after 'c' in train.mode: separate, where the last stage is first; "
        "write joint or alternate"
    )
    for mode in ("joint", "alternate"):
        stage = read(path, [*seen, f"train.mode={mode}"]).stage("c")
        assert stage.earlier() == [("a", "rank"), ("b", "score")]
    assert read(path, [*separate, "stages.2.from_stages=[]"]).train.mode == "separate"
    with pytest.raises(ConfigError, match="received 'rank'"):
        rank("rank").earlier()

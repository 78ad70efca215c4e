"""Experts that labels share, against the formulas row by row, their carried weights, and settings that are refused."""

from pathlib import Path

import pytest
import torch

from corank.core.settings import validate
from corank.models.joint import JointModel
from corank.models.mixtures.experts import ExpertHeads, ExpertLevel
from corank.models.settings.mixtures.experts import ExpertSettings
from corank.models.settings.mlp import DcnSettings, MlpSettings
from corank.training.warm_start.layers import ModelMap
from tests.support.configs import TEXT, refused
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.loss_cases import logits_of
from tests.support.models import mlp

LABELS = ["click", "buy", "share"]
MMOE, CGC = ExpertSettings(shared=3, width=4), ExpertSettings(shared=2, own=1, width=4)
PLE = ExpertSettings(shared=2, own=2, width=4, levels=2)


def stage(experts: ExpertSettings, labels: list[str] = LABELS, **settings: object) -> MlpSettings:
    value = {"name": "rank", "model": "mlp", "keep": 2, "hidden": [8, 6], "labels": labels} | settings
    return validate(MlpSettings, value | {"experts": experts.model_dump()}, "stages.1")


def model(settings: MlpSettings, seed: int = 0) -> JointModel:
    torch.manual_seed(seed)
    built = JointModel([settings], LAYOUT)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_()
    return built


def relu_layer(layer: torch.nn.Module, x: torch.Tensor, *at: int) -> torch.Tensor:
    weight, bias = layer.get_parameter("weight")[at], layer.get_parameter("bias")[at]
    return torch.relu(weight @ x + bias)


def mixtures(level: ExpertLevel, read: list[torch.Tensor], count: int, own: int) -> list[torch.Tensor]:
    """Inputs of one row for each label and shared experts (last) → those of the next level, by the papers' formulas."""
    *of_label, shared = read
    common = [relu_layer(level.shared, shared, j) for j in range(count)]
    mixed, every = [], common
    for label, x in enumerate(of_label):
        mine = [relu_layer(level.own, x, label, j) for j in range(own) if level.own is not None]
        shares = torch.softmax(level.gates.weight[label] @ x, 0)
        mixed.append(sum((g * e for g, e in zip(shares, common + mine, strict=True)), torch.zeros(4)))
        every = every + mine
    if level.shared_gate is not None:
        shares = torch.softmax(level.shared_gate.weight @ shared, 0)
        mixed.append(sum((g * e for g, e in zip(shares, every, strict=True)), torch.zeros(4)))
    return mixed


@pytest.mark.parametrize("experts", [MMOE, CGC, PLE], ids=["mmoe", "cgc", "ple"])
def test_labels_read_mixtures_of_experts(experts: ExpertSettings) -> None:
    built = model(stage(experts, dcn=DcnSettings(layers=1).model_dump()))
    rank, (batch, by_row) = mlp(built), random_batch(3)
    heads = rank.heads
    assert isinstance(heads, ExpertHeads) and rank.dcn is not None
    inputs = built.inputs(batch)
    rows = torch.cat(
        (inputs["query"][batch.request_of], inputs["item"][batch.item_of], inputs["cross"][: len(batch)]), 1
    )
    logits = built(batch)["rank"].logits
    for n, (row, crossed) in enumerate(zip(rows, rank.dcn.cross(rows), strict=True)):
        x = torch.relu(rank.hidden[0](torch.relu(rank.first(row))))
        read = [x] * (len(LABELS) + 1)
        for level in heads.levels:
            assert isinstance(level, ExpertLevel)
            read = mixtures(level, read, experts.shared, experts.own)
        for k, label in enumerate(LABELS):
            expected = heads.weight[k] @ torch.cat((read[k], crossed)) + heads.bias[k]
            torch.testing.assert_close(logits[label][n], expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(logits_of(built(batch)), logits_of(built(by_row)), rtol=1e-3, atol=1e-3)


def test_experts_of_labels_are_found_again_by_name() -> None:
    before, now = model(stage(PLE)), model(stage(PLE, ["like", "share", "click"]), seed=1)
    earlier, fresh = before.state_dict(), {name: x.clone() for name, x in now.state_dict().items()}
    for layer in ModelMap.of(before, now).carried.values():
        layer.fill(now.state_dict()[layer.new.key], earlier[layer.earlier.key])
    for name in ("levels.0.own.weight", "levels.1.gates.weight", "bias"):
        key = f"stages.rank.heads.{name}"
        weight = now.state_dict()[key]
        torch.testing.assert_close(weight[1:], earlier[key][[2, 0]])
        torch.testing.assert_close(weight[0], fresh[key][0])
    gate = "stages.rank.heads.levels.0.shared_gate.weight"
    torch.testing.assert_close(now.state_dict()[gate][[0, 1, 4, 5, 6, 7]], earlier[gate][[0, 1, 6, 7, 2, 3]])


def test_widths_of_experts_are_scaled_with_the_others() -> None:
    scaled = stage(PLE).scale_widths(0.5)
    assert scaled.experts is not None and (scaled.hidden, scaled.experts.width) == ([4, 3], 2)


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT, encoding="utf-8")
    own = "stages.1.experts={own: 1}"
    message = refused(path, "stages.1.labels=[click]", own)
    assert "stages.1.experts.own: 'click' is the only label" in message
    message = refused(path, "stages.1.experts={}", "stages.1.members=2")
    assert message == "stages.1.experts: not beside `members`; drop one of the two"
    message = refused(path, "stages.1.experts={shared: 1}")
    assert "stages.1.experts: of one expert there is nothing to mix" in message

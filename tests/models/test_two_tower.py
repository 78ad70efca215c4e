"""Several query towers, whose vectors are summed, and the biases within vectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from corank.core.errors import ConfigError
from corank.features.log_schema import DataSettings
from corank.models.joint import JointModel
from corank.models.settings.network import StageContext
from corank.models.settings.two_tower import TowersSettings
from corank.models.two_tower import Sum, Tower, Towers
from corank.training.config_file import complete_saved
from corank.training.warm_start.layers import ModelMap
from tests.support.configs import TEXT, refused
from tests.support.encoded_batches import LAYOUT, SCHEMA, random_batch
from tests.support.models import linears, two_tower

DATA = DataSettings.model_validate(
    {
        "log": "log.parquet",
        "request": ["request"],
        "user": "user",
        "item": "item",
        "time": "time",
        "labels": {"click": {"column": "click"}},
        "split": {"valid": "2026-01-02", "test": "2026-01-03"},
    }
)
SPLIT: dict[str, dict[str, Any]] = {
    "person": {"features": ["user", "age"], "widths": [6, 8]},
    "past": {"features": ["seen"]},
    "now": {"features": ["hour"], "widths": [8]},
}


def of(**changes: object) -> TowersSettings:
    fields = {
        "name": "prerank",
        "model": "towers",
        "keep": 3,
        "query": [16, 8],
        "item": [12, 8],
        "bias": False,
    }
    return TowersSettings.model_validate({**fields, "query_towers": SPLIT, **changes})


def towers(**changes: object) -> Towers:
    torch.manual_seed(0)
    return Towers(of(**changes), LAYOUT)


def several(built: Towers) -> Sum:
    """The query towers whose vectors are summed."""
    assert isinstance(built.query, Sum)
    return built.query


def layers_of(tower: nn.Module) -> list[nn.Linear]:
    """The layers of a query tower that reads some features."""
    assert isinstance(tower, nn.Sequential) and isinstance(tower[1], Tower)
    return linears(tower[1].layers)


def columns(*names: str) -> list[int]:
    numbers: list[int] = LAYOUT.columns("query", names).tolist()
    return numbers


def test_the_query_vector_is_the_sum_of_the_towers() -> None:
    query = several(towers())
    x = torch.randn(5, LAYOUT.width("query"))
    expected = torch.zeros(5, 8)
    for tower, spec in zip(query.towers, SPLIT.values(), strict=True):
        layers = layers_of(tower)
        h = x[:, columns(*spec["features"])]
        for layer in layers[:-1]:
            h = torch.relu(h @ layer.weight.T + layer.bias)
        expected += h @ layers[-1].weight.T + layers[-1].bias
    torch.testing.assert_close(query(x), expected)


def test_a_tower_sees_its_features_alone() -> None:
    query = several(towers())
    assert sorted(columns("user", "age", "seen", "hour")) == list(range(LAYOUT.width("query")))
    for tower, spec in zip(query.towers, SPLIT.values(), strict=True):
        x = torch.randn(50, LAYOUT.width("query"), requires_grad=True)
        (gradient,) = torch.autograd.grad(tower(x).square().sum(), x)
        assert torch.nonzero(gradient.any(0)).squeeze(1).tolist() == columns(*spec["features"])


def test_a_feature_may_enter_two_towers_or_none() -> None:
    query = towers(query_towers={"a": {"features": ["user"]}, "b": {"features": ["user", "hour"]}}).query
    x = torch.randn(50, LAYOUT.width("query"), requires_grad=True)
    (gradient,) = torch.autograd.grad(query(x).square().sum(), x)
    assert torch.nonzero(gradient.any(0)).squeeze(1).tolist() == columns("user", "hour")


def test_widths_are_those_of_query_unless_given() -> None:
    assert of().queries() == {"person": [6, 8], "past": [16, 8], "now": [8]}
    shapes = [[tuple(layer.weight.shape) for layer in layers_of(tower)] for tower in several(towers()).towers]
    assert shapes == [[(6, 9), (8, 6)], [(16, 8), (8, 16)], [(8, 4)]]
    assert of(query_towers={}).queries() == {"query": [16, 8]}


def test_one_tower_is_called_as_it_always_was() -> None:
    def names(built: Towers) -> set[str]:
        return {n for n in dict(built.named_parameters()) if n.startswith("query.")}

    plain = {f"query.layers.{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias")}
    assert names(towers(query_towers={})) == plain
    several = {f"query.towers.{n}.1.layers" for n in range(3)}
    assert {name.rsplit(".", 2)[0] for name in names(towers())} == several
    assert all(buffer not in towers().state_dict() for buffer, _ in towers().named_buffers())


def test_the_towers_of_a_model_meet_the_items_in_a_dot_product() -> None:
    batch, by_row = random_batch(3)
    torch.manual_seed(0)
    built = JointModel([of()], LAYOUT)
    with torch.no_grad():
        for table in built.tables.parameters():
            table.normal_()
    output = built(batch)["prerank"]
    made_of, z = output.vectors, output.logits["click"]
    assert made_of is not None and len(made_of.query) == len(batch.numbers["query"])
    inputs = built.inputs(batch)["query"]
    vectors = torch.stack([tower(inputs) for tower in several(two_tower(built)).towers]).sum(0)
    dots = (vectors[batch.request_of] * made_of.items()[batch.item_of]).sum(1)
    torch.testing.assert_close(z, made_of.scale * dots + made_of.bias)
    torch.testing.assert_close(z, built(by_row)["prerank"].logits["click"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("some", [{}, {"query_towers": {}}])
def test_each_side_adds_a_bias_within_the_vectors(some: dict[str, Any]) -> None:
    batch, by_row = random_batch(3)
    torch.manual_seed(0)
    built = JointModel([of(bias=True, **some)], LAYOUT)
    with torch.no_grad():
        for table in built.tables.parameters():
            table.normal_()
    output, stage, inputs = built(batch)["prerank"], two_tower(built), built.inputs(batch)
    q, v = stage.query(inputs["query"]), stage.item_vectors(inputs["item"])
    assert q.shape[1] == 7 and v.shape[1] == 8 and (v[:, -1] == 1).all()
    of_query, of_item = q[batch.request_of], v[batch.item_of]
    product = (of_query[:, :6] * of_item[:, :6]).sum(1)
    assert stage.scale.exp().item() == pytest.approx(8**-0.5)
    expected = stage.scale.exp() * (product + of_item[:, 6]) + of_query[:, 6] + stage.bias
    torch.testing.assert_close(output.logits["click"], expected)
    torch.testing.assert_close(expected, built(by_row)["prerank"].logits["click"], rtol=1e-4, atol=1e-5)


def test_biases_come_to_a_model_that_had_none() -> None:
    """`train --from` takes over the numbers that both vectors have; the last two of the earlier ones go."""
    torch.manual_seed(0)
    before, after = (JointModel([of(bias=bias)], LAYOUT) for bias in (False, True))
    mapping = ModelMap.of(before, after)
    assert not mapping.fresh and not mapping.gone
    weights, name = before.state_dict(), "stages.prerank.item.layers.1.weight"
    assert mapping.carried[name].changes == (["item bias"], ["vector"])
    target = after.state_dict()[name]
    bias = target[6].clone()
    mapping.carried[name].fill(target, weights[name])
    assert torch.equal(target[:6], weights[name][:6]) and torch.equal(target[6], bias)


def test_a_config_of_an_earlier_run_has_no_biases_unless_it_says_so() -> None:
    plain = of(bias=True).model_dump()
    del plain["bias"]
    assert TowersSettings.model_validate(plain).bias
    assert complete_saved({"stages": [plain]})["stages"] == [plain | {"bias": False}]
    assert complete_saved({"stages": [plain | {"bias": True}]})["stages"] == [plain | {"bias": True}]
    for odd in ({"stages": [{"model": "towerz"}, 3]}, {"stages": 1}, None):
        assert complete_saved(odd) == odd


def test_narrower_towers_keep_room_for_biases() -> None:
    narrow = of(bias=True).scale_widths(0.25)
    assert (narrow.query, narrow.item, narrow.query_towers["person"].widths) == ([4, 3], [3, 3], [1, 3])
    assert of().scale_widths(0.25).item == [3, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bias": True, "query_towers": {}, "query": [2], "item": [2]},
            "bias takes two numbers of a vector, so the last width is 3 or more; received 2; write more, or bias: "
            "false",
        ),
        (
            {"query_features": ["user"]},
            "query_features are those of a single query tower; drop them, or query_towers",
        ),
        (
            {"query_towers": {**SPLIT, "now": {"features": ["hour"], "widths": [8, 4]}}},
            "the towers of 'prerank' meet in a dot product, so their last widths must be equal; "
            "received now 4 and item 8",
        ),
        ({"query": [16, 4]}, "must be equal; received past 4 and item 8"),
        ({"query_towers": {"now": {"features": []}}}, "at least 1 item"),
    ],
)
def test_towers_that_contradict_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        of(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (
            "match",
            "'match' is a cross feature and cannot enter the query tower: at serving time the query tower runs once "
            "a request and does not know the item; leave it to a ranker stage",
        ),
        ("item", "'item' is an item feature and cannot enter the query tower"),
        ("nobody", "no feature 'nobody' is declared under features"),
    ],
)
def test_a_query_tower_knows_the_query_alone(feature: str, message: str) -> None:
    context = StageContext("stages.0", SCHEMA, DATA)
    of().check(context)
    settings = of(query_towers={**SPLIT, "now": {"features": ["hour", feature], "widths": [8]}})
    with pytest.raises(ConfigError) as caught:
        settings.check(context)
    assert str(caught.value).startswith(f"stages.prerank.query_towers.now.features: {message}")


@pytest.mark.parametrize("side", ["query", "item"])
def test_a_tower_that_reads_nothing_is_refused(side: str) -> None:
    with pytest.raises(
        ConfigError, match=f"prerank.{side}_features: the {side} tower reads no feature; those of"
    ):
        of(query_towers={}, **{f"{side}_features": []}).check(StageContext("stages.0", SCHEMA, DATA))


def test_a_config_says_where_its_towers_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT, encoding="utf-8")
    several = "stages.0.query_towers={person: {features: [user_id, history]}, now: {features: [tab]}}"
    crossed = "stages.0.query_towers.now.features=[tab, brand_seen]"
    assert refused(path, several, crossed).startswith(
        "stages.prerank.query_towers.now.features: 'brand_seen' is a cross feature"
    )
    assert refused(path, several, "stages.0.query_features=[tab]") == (
        "stages.0: query_features are those of a single query tower; drop them, or query_towers"
    )
    assert refused(path, several, "stages.0.query_towers.now.widths=[16, 4]") == (
        "stages.0: the towers of 'prerank' meet in a dot product, so their last widths must be equal; "
        "received now 4 and item 8"
    )

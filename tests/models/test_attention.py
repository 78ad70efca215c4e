"""Attention over a history, against loops over events and against autograd of the plain formula."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corank.batches.batch import Batch, padded
from corank.core.errors import ConfigError
from corank.features.input_layout import Attended, Layout, event_columns
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.schema import Schema
from corank.losses.base import FunnelSpec
from corank.losses.click import ClickLoss
from corank.losses.total import TotalLoss
from corank.models.attention import BatchHistory, Din, GraphHistory
from corank.models.layers import ACTIVATIONS
from corank.models.named_axes import number
from corank.models.settings.mlp import DinSettings, MlpSettings
from corank.testing.batches import SCHEMA, SIZES
from tests.support.history_batches import ATTENDED, HELD, RAGGED, Request, attended, requests
from tests.support.models import assert_learns_alike, joint

WIDTH = 5
DIN = DinSettings(history="seen", attributes=["tags"], hidden=3)
RANK = MlpSettings(name="rank", model="mlp", keep=2, hidden=[16, 8], din=DIN)
TOTAL = TotalLoss(
    [ClickLoss(kind="click", stage="rank")], FunnelSpec(["exposed"], ["click"], {"rank": ["click"]})
)


def made(
    of: list[Request], activation: str = "silu", seed: int = 0, own: int = 0
) -> tuple[Din, Batch, Tensor, Tensor]:
    """An attention, a batch, and inputs for its items and the events, which are leaves; events have `own` columns."""
    torch.manual_seed(seed)
    batch = attended(of, seed)[0]
    items = padded(int(batch.item_of.max()) + 1) if len(batch) else 0
    target = torch.randn(items, WIDTH, requires_grad=True)
    event = torch.randn(padded(HELD), WIDTH + own, requires_grad=True)
    return Din(DIN, number("item", WIDTH), activation, number("event", own)), batch, target, event


def history(event: Tensor, batch: Batch) -> BatchHistory:
    return BatchHistory(event, batch.histories[ATTENDED], batch)


def masked(din: Din, of: list[Request], item_of: Tensor, target: Tensor, event: Tensor) -> Tensor:
    """The formula over every candidate and event; events of other requests count 0: (C, w)."""
    request = torch.tensor([r for r, (size, _) in enumerate(of) for _ in range(size)])
    asked = torch.tensor([r for r, (_, events) in enumerate(of) for _ in events])
    t = target[item_of.long()]
    e = event[torch.tensor([e for _, events in of for e in events], dtype=torch.int64)]
    first = din.target(t).unsqueeze(1) + din.event(e) + din.product(t.unsqueeze(1) * e[:, :WIDTH])
    a = din.weight(ACTIVATIONS[din.activation](first)).squeeze(-1)
    summed: Tensor = (a * (request.unsqueeze(1) == asked)) @ e
    return summed


@settings(max_examples=40, deadline=None)
@given(requests, st.integers(0, 99), st.sampled_from([0, 2]))
def test_its_values_and_gradients_are_those_of_the_plain_formula(
    of: list[Request], seed: int, own: int
) -> None:
    din, batch, target, event = made(of, seed=seed, own=own)
    interests = din(target, history(event, batch))
    plain = copy.deepcopy(din).double()
    leaves = [x.detach().double().requires_grad_() for x in (target, event)]
    expected = masked(plain, of, batch.item_of, *leaves)
    torch.testing.assert_close(interests.double(), expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(interests)
    interests.backward(gradient)
    expected.backward(gradient.double())
    theirs = [*leaves, *plain.parameters()]
    for ours, other in zip((target, event, *din.parameters()), theirs, strict=True):
        assert ours.grad is not None and other.grad is not None
        torch.testing.assert_close(ours.grad.double(), other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own", [0, 2])
def test_a_request_of_a_graph_has_the_same_and_rows_that_fill_up_change_nothing(own: int) -> None:
    din, batch, target, event = made(RAGGED, own=own)
    interests, rows, at = din(target, history(event, batch)), target[batch.item_of.long()], 0
    for size, events in RAGGED:
        expected, candidates = interests[at : at + size], rows[at : at + size]
        at += size
        for more in (1, 3):
            items = torch.full((1, len(events) + more, event.shape[1]), 7.0)
            items[0, : len(events)] = event[torch.tensor(events, dtype=torch.int64)]
            mask = (torch.arange(len(events) + more) < len(events)).float()[None]
            request = GraphHistory(items, mask)
            torch.testing.assert_close(din(candidates, request), expected)
            parts = (din.target(candidates), candidates), (din.event(items), items)
            torch.testing.assert_close(request.attend(*parts, din._weigh), expected)
            unmasked = replace(request, mask=torch.ones_like(mask))
            assert not len(expected) or not torch.allclose(din(candidates, unmasked), expected)


@pytest.mark.precision
def test_bf16_inputs_give_sums_in_fp32() -> None:
    din, batch, target, event = made(RAGGED)
    exact = din(target, history(event, batch))
    rounded = din(target.bfloat16(), history(event.bfloat16(), batch))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(requests, st.integers(0, 99))
def test_a_ranker_that_attends_is_the_same_by_request_and_by_row(of: list[Request], seed: int) -> None:
    assert_learns_alike(joint(RANK, seed=seed), TOTAL, *attended(of, seed))


def test_attention_reads_what_its_events_have_and_those_of_no_other_history() -> None:
    past: dict[str, Any] = {"side": "user", "kind": "ids", "of": "item", "column": "clicked", "dim": 8}
    columns = {
        "past": past,
        "other": past | {"column": "bought"},
        "dwell": {"side": "user", "kind": "ids", "parallel_to": "past", "dim": 4},
        "source": {"side": "user", "kind": "ids", "parallel_to": "past", "dim": 8},
        "price_paid": {"side": "user", "kind": "ids", "parallel_to": "other", "dim": 4},
    }
    features = {name: IdsFeature.model_validate(value) for name, value in columns.items()}
    schema = Schema({**SCHEMA.features, **features, "id": IdFeature(side="item", kind="id", dim=2)})
    names = ["source", "tags", "dwell", "id"]
    settings = MlpSettings(
        name="rank", model="mlp", keep=2, din=DinSettings(history="past", attributes=names)
    )
    assert settings.attended(schema) == Attended("past", ("item", *names))
    layout = Layout(schema, SIZES | {"dwell": 5, "source": 6, "price_paid": 4, "id": 30})
    # by dimension: id of 2; dwell and tags of 4; item and source of 8
    of_items, of_events = event_columns(layout, "past", ["item", *names])
    assert of_items.tolist() == [0, 1, *range(6, 18)] and of_events.tolist() == [*range(2, 6), *range(18, 26)]
    assert len(of_items) == len(layout.columns("item", ["item", *names]))
    other = settings.model_copy(update={"din": DinSettings(history="past", attributes=["price_paid"])})
    with pytest.raises(ConfigError, match=r"'price_paid' is no item feature .* parallel_to 'past'$"):
        other.attended(schema)


@pytest.mark.parametrize(
    ("din", "message"),
    [
        ({"history": "tags"}, r"rank\.din\.history: no history 'tags'; histories are seen$"),
        (
            {"history": "seen", "attributes": ["none"]},
            r"'none' is no item feature of kind id, ids, bucket or vector that is an input, and no list that is "
            r"parallel_to 'seen'$",
        ),
    ],
)
def test_attention_reads_a_history_and_embedded_features_of_its_items(
    din: dict[str, Any], message: str
) -> None:
    settings = MlpSettings(name="rank", model="mlp", keep=2, din=DinSettings(**din))
    with pytest.raises(ConfigError, match=message):
        settings.attended(SCHEMA)

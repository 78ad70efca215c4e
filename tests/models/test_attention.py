"""Attention over a history, against loops over events and against autograd of the plain formula."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corank.batches.batch import Batch, Csr, padded
from corank.core.errors import ConfigError
from corank.features.input_layout import Attended, Layout, event_columns
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.schema import Schema
from corank.losses.base import FunnelSpec
from corank.losses.click import ClickLoss
from corank.losses.total import TotalLoss
from corank.models.attention import BatchHistory, Din, SingleRequestHistory
from corank.models.layers import ACTIVATIONS
from corank.models.named_axes import number
from corank.models.settings.mlp import DinSettings, MlpSettings
from corank.models.settings.two_tower import TowersSettings
from tests.support.encoded_batches import SCHEMA, SIZES
from tests.support.history_batches import ATTENDED, HELD, RAGGED, Request, attended, requests
from tests.support.models import assert_learns_alike, joint, mlp, plain_rows

WIDTH = 5
DIN = DinSettings(history="seen", attributes=["tags"], hidden=3)
RANK = MlpSettings(name="rank", model="mlp", keep=2, hidden=[16, 8], din=DIN)
TOTAL = TotalLoss(
    [ClickLoss(kind="click", stage="rank")], FunnelSpec(["exposed"], ["click"], {"rank": ["click"]})
)


def lists(csr: Csr) -> list[list[int]]:
    assert csr.start is not None and csr.weight is None
    assert csr.row.dtype == csr.start.dtype == torch.int32
    return [csr.row[first:last].tolist() for first, last in pairwise(csr.start.tolist())]


@given(requests)
def test_pairs_are_each_candidate_with_each_event_of_its_request(of: list[Request]) -> None:
    past = attended(of)[0].histories[ATTENDED]
    events = [(r, e) for r, (_, request_events) in enumerate(of) for e in request_events]
    candidates = [r for r, (size, _) in enumerate(of) for _ in range(size)]
    pairs = [(c, s) for c, r in enumerate(candidates) for s, (other, _) in enumerate(events) if r == other]
    assert past.event.tolist() == [e for _, e in events]
    assert list(zip(past.candidate.tolist(), past.slot.tolist(), strict=True)) == pairs
    assert past.event.dtype == past.candidate.dtype == past.slot.dtype == torch.int32
    of_candidate = [[p for p, (c, _) in enumerate(pairs) if c == n] for n in range(len(candidates))]
    of_slot = [[p for p, (_, s) in enumerate(pairs) if s == n] for n in range(len(events))]
    of_item = [[s for s, (_, e) in enumerate(events) if e == n] for n in range(padded(HELD))]
    assert lists(past.candidates) == of_candidate
    assert lists(past.slots) == of_slot
    assert lists(past.events) == of_item and padded(HELD) > HELD


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


def loop(din: Din, of: list[Request], item_of: Tensor, target: Tensor, event: Tensor) -> list[Tensor]:
    interests = []
    histories = [events for size, events in of for _ in range(size)]
    for item, events in zip(item_of.tolist(), histories, strict=True):
        t, interest = target[item], torch.zeros(event.shape[1])
        for e in (event[n] for n in events):
            product = din.product.weight @ (t * e[:WIDTH])
            first = din.target.weight @ t + din.event.weight @ e + product + din.target.bias
            interest = interest + (din.weight(ACTIVATIONS[din.activation](first))) * e
        interests.append(interest)
    return interests


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


@pytest.mark.parametrize("own", [0, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_candidate_sums_the_events_of_its_request_each_by_its_weight(activation: str, own: int) -> None:
    din, batch, target, event = made(RAGGED, activation, own=own)
    interests = din(target, history(event, batch))
    torch.testing.assert_close(interests, torch.stack(loop(din, RAGGED, batch.item_of, target, event)))
    assert interests.any(1).tolist() == [True, True, False, False, False, True], "nothing of no events"


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


def test_an_item_that_is_twice_in_a_history_gets_the_gradient_of_both() -> None:
    event_gradients = []
    for events in ([3, 3, 0], [3, 0, 0]):
        din, batch, target, event = made([(1, events)])
        din(target, history(event, batch)).sum().backward()
        assert event.grad is not None and not event.grad[[1, 2, 4, 33]].any()
        event_gradients.append(event.grad[[0, 3]])
    once = event_gradients[0][0], event_gradients[1][1]
    torch.testing.assert_close(
        torch.stack((event_gradients[1][0], event_gradients[0][1])), 2 * torch.stack(once)
    )


def test_one_request_in_a_graph_has_the_same_and_masked_rows_change_nothing() -> None:
    din, batch, target, event = made(RAGGED)
    interests = din(target, history(event, batch))
    at = 0
    for size, events in RAGGED:
        rows = target[batch.item_of[at : at + size].long()]
        own = event[torch.tensor(events, dtype=torch.int64)]
        filled = torch.cat((own, torch.full((3, WIDTH), 7.0)))
        ones = torch.ones(len(events))
        torch.testing.assert_close(din(rows, SingleRequestHistory(own, ones)), interests[at : at + size])
        mask = torch.cat((ones, torch.zeros(3)))
        torch.testing.assert_close(din(rows, SingleRequestHistory(filled, mask)), interests[at : at + size])
        if size:
            assert not torch.allclose(
                din(rows, SingleRequestHistory(filled, torch.ones(len(events) + 3))),
                interests[at : at + size],
            )
        at += size


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


def test_the_interest_enters_the_first_layer_of_its_request_alone() -> None:
    built = joint(RANK)
    rank = mlp(built)
    assert rank.din is not None
    batch, other = (attended(of)[0] for of in (RAGGED, [(2, [3, 0, 5]), *RAGGED[1:]]))
    before, after = built(batch)["rank"].logits["click"], built(other)["rank"].logits["click"]
    assert (before != after).tolist() == [True, True, False, False, False, False]
    inputs = built.inputs(batch)
    interest = rank.din(rank.target(inputs["item"]), history(inputs[ATTENDED], batch))
    first = rank.first(plain_rows(inputs, batch)) + rank.interest(interest)
    torch.testing.assert_close(before, rank.above(first).logits["click"], rtol=1e-4, atol=1e-5)


def test_an_event_is_embedded_as_a_candidate_is() -> None:
    assert RANK.attended(SCHEMA) == ATTENDED
    built = joint(TowersSettings(name="prerank", value="click", keep=3), RANK)
    assert built.attended == (ATTENDED,)
    batch = attended(RAGGED)[0]
    items, inputs = int(batch.item_of.max()) + 1, built.inputs(batch)
    target = mlp(built).target(inputs["item"])
    assert target.shape == (items, 12) and target.any(1).all()
    torch.testing.assert_close(inputs[ATTENDED][:items], target)
    assert len(inputs[ATTENDED]) == padded(HELD) and not inputs[ATTENDED][HELD:].any()


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
            {"history": "seen", "attributes": ["tags", "price"]},
            r"rank\.din\.attributes: 'price' is no item feature",
        ),
        ({"history": "seen", "attributes": ["hour"]}, r"rank\.din\.attributes: 'hour' is no item feature"),
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

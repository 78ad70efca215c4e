"""The encoder of events, against loops over the events of each request."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from corank.batches.batch import padded
from corank.core.errors import ConfigError
from corank.features.kinds.ids import IdsFeature
from corank.features.schema import Schema
from corank.models.attention import BatchHistory, GraphHistory
from corank.models.joint import JointModel
from corank.models.named_axes import number, read_axes
from corank.testing.batches import LAYOUT, SCHEMA
from corank_lab.models.mlp import EncodedDinSettings, MlpLabSettings, SequenceEncoderSettings
from corank_lab.models.sequence_encoder import KNOTS, OCTAVES, HstuLayer, SequenceEncoder, encode
from tests.support.history_batches import ATTENDED, HELD, RAGGED, attended
from tests.support.models import dense_gradients, mlp, randomise

WIDTH, LAST = 5, 4
SETTINGS = SequenceEncoderSettings(layers=2, heads=2, dim=3, ages=True)


def made() -> SequenceEncoder:
    torch.manual_seed(0)
    encoder = SequenceEncoder(SETTINGS, number("event", WIDTH), LAST, dropout=0.0)
    randomise(encoder, 0.5)
    return encoder


def normalised(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    deviation = (x.var(unbiased=False) + norm.eps).sqrt()
    return (x - x.mean()) / deviation * norm.weight + norm.bias


def loop(encoder: SequenceEncoder, events: Tensor, ages: Tensor) -> Tensor:
    """The formula, event by event: (L, v) of one request."""
    x = []
    for n, (event, age) in enumerate(zip(events, ages, strict=True)):
        at, knots = min(age.item() / OCTAVES, KNOTS - 1), torch.zeros(KNOTS)
        low = min(int(at), KNOTS - 2)
        knots[low], knots[low + 1] = 1 - (at - low), at - low
        assert encoder.age is not None
        x.append(event + encoder.place[len(events) - 1 - n] + encoder.age.weight @ knots)
    for layer in encoder.layers:
        assert isinstance(layer, HstuLayer)
        parts = [functional.silu(layer.inputs(normalised(e, layer.norm))).split(6) for e in x]
        summed = []
        for n in range(len(x)):
            heads = []
            for h in range(2):
                of_head = slice(3 * h, 3 * h + 3)
                total = torch.zeros(3)
                for m in range(n + 1):
                    score = parts[n][1][of_head] @ parts[m][2][of_head] + layer.distance[n - m, h]
                    total = total + functional.silu(score) * parts[m][3][of_head]
                heads.append(total)
            summed.append(layer.output(normalised(torch.cat(heads), layer.summed) * parts[n][0]))
        x = [e + s for e, s in zip(x, summed, strict=True)]
    return torch.stack(x) if x else events


def test_each_request_is_the_formula_in_a_batch_and_alone() -> None:
    encoder, rows = made(), torch.randn(padded(HELD), WIDTH)
    batch = attended(RAGGED, ages=True)[0]
    past = batch.histories[ATTENDED]
    assert past.ages is not None and past.longest == 3 and len(past.place) == padded(len(past.event))
    encoded, at = encode(BatchHistory(rows, past, batch), rows, encoder).items, 0
    for _, events in RAGGED:
        own, ages = rows[torch.tensor(events, dtype=torch.int64)], past.ages[at : at + len(events)]
        expected = loop(encoder, own, ages)
        torch.testing.assert_close(encoded[at : at + len(events)], expected, rtol=1e-4, atol=1e-4)
        filled, mask = torch.cat((own, torch.ones(2, WIDTH)))[None], torch.ones(1, len(events) + 2)
        mask[0, len(events) :] = 0
        alone = GraphHistory(filled, mask, torch.cat((ages, torch.zeros(2)))[None])
        alone_encoded = encode(alone, filled, encoder).items[0, : len(events)]
        torch.testing.assert_close(alone_encoded, expected, rtol=1e-4, atol=1e-4)
        at += len(events)
    assert at == len(encoded)


def test_a_ranker_with_an_encoder_is_the_same_by_request_and_by_row() -> None:
    din = EncodedDinSettings(history="seen", attributes=["tags"], hidden=3, encoder=SETTINGS)
    torch.manual_seed(0)
    built = JointModel([MlpLabSettings(name="rank", model="mlp_lab", keep=2, hidden=[8], din=din)], LAYOUT)
    randomise(built, 0.5)
    (history,) = built.attended
    assert history.ages and history.features == ATTENDED.features
    outcomes = []
    for batch in attended(RAGGED, ages=True, history=history):
        built.zero_grad()
        logits = built(batch)["rank"].logits["click"]
        (logits * torch.arange(1.0, 1 + len(batch))).sum().backward()
        outcomes.append((logits, dense_gradients(built)))
    (ours, our_gradients), (theirs, their_gradients) = outcomes
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(
            torch.as_tensor(gradient), torch.as_tensor(their_gradients[name]), rtol=1e-3, atol=1e-3, msg=name
        )
    axes = read_axes(mlp(built))
    events, places = number("events since", 50), axes["din.encoder.layers.0.inputs.weight"][1]
    assert axes["din.encoder.place"] == (events, places) and places is not None and len(places) == 12


@pytest.mark.parametrize(
    ("history", "encoder", "message"),
    [
        (
            {"column": "clicked"},
            {"ages": True},
            r"rank\.din\.encoder\.ages: the events of 'past' have no times; name",
        ),
        ({"last": 1}, {}, r"rank\.din\.encoder: 'past' keeps one event \(last: 1\)"),
    ],
)
def test_an_encoder_that_can_have_no_effect_is_refused(
    history: dict[str, Any], encoder: dict[str, Any], message: str
) -> None:
    past = IdsFeature.model_validate({"side": "user", "kind": "ids", "of": "item", "dim": 8} | history)
    schema = Schema({**SCHEMA.features, "past": past})
    din = EncodedDinSettings(history="past", encoder=SequenceEncoderSettings(**encoder))
    with pytest.raises(ConfigError, match=message):
        MlpLabSettings(name="rank", model="mlp_lab", keep=2, din=din).attended(schema)

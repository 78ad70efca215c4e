"""Embeddings of numbers, against their formulas, in a ranker, and the data that sets their bins."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from corank.models.inputs.numbers import PeriodicEmbedding, PiecewiseEmbedding, fit_bins
from corank.models.joint import JointModel
from corank.models.named_axes import number, read_axes
from corank.models.settings.inputs.numbers import PeriodicNumbers, PiecewiseNumbers
from corank.models.settings.mlp import MlpSettings
from tests.support.configs import TEXT, refused
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.loss_cases import logits_of
from tests.support.models import mlp

QUARTERS = PiecewiseNumbers(kind="piecewise", bins=4)


def test_shares_of_bins_by_hand() -> None:
    embedding = PiecewiseEmbedding(QUARTERS, [2, 0], number("x", 2))
    # quartiles of 0 … 8 are 0, 2, 4, 6, 8; the other number is always 5
    embedding.fit(np.stack([np.arange(9.0), np.full(9, 5.0)], axis=1).astype(np.float32))
    embedded = embedding(torch.tensor([[5.0, 7, 3], [4, 7, -1], [6, 7, 99], [5, 7, 6]]))
    of_first: list[list[float]] = [[1, 0.5, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert embedded.tolist() == [[*shares, 0, 0, 0, 0] for shares in of_first]


def test_close_quantiles_are_one_edge() -> None:
    low, slope = fit_bins(np.array([0.0] * 90 + [0.001, 1, 2, 3]), 8)
    widths = 1 / slope[slope > 0]
    assert 1 <= len(widths) < 8 and widths.min() >= 0.01 and low[0] == 0 and not low[len(widths) :].any()
    assert low[len(widths) - 1] + widths[-1] == pytest.approx(3)
    assert not fit_bins(np.empty(0), 4)[1].any()


def test_waves_are_the_formula() -> None:
    torch.manual_seed(0)
    settings = PeriodicNumbers(kind="periodic", frequencies=3, sigma=1, dim=2)
    embedding = PeriodicEmbedding(settings, [1, 0], number("x", 2))
    x, expected = torch.randn(5, 2), []
    c, weight, bias = (p.detach().double().numpy() for p in embedding.parameters())
    for row in x.double().numpy():
        for f, value in enumerate(row[::-1]):
            angle = 2 * math.pi * c[f] * value
            waves = np.concatenate([np.sin(angle), np.cos(angle)])
            expected.append(np.maximum(waves @ weight[f] + bias[f, 0], 0))
    np.testing.assert_allclose(
        embedding(x).detach().flatten(), np.concatenate(expected), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dim", [None, 2])
def test_a_ranker_reads_them_beside_the_scaled_numbers(dim: int | None) -> None:
    torch.manual_seed(0)
    read = PiecewiseNumbers(kind="piecewise", bins=3, dim=dim)
    built = JointModel([MlpSettings(name="rank", model="mlp", keep=2, hidden=[8], numbers=read)], LAYOUT)
    rank, (batch, by_row) = mlp(built), random_batch(3)
    embedded = rank.numbers
    assert sorted(embedded) == ["cross", "item", "query"], "no number is a snapshot"
    for embedding in embedded.values():
        assert isinstance(embedding, PiecewiseEmbedding)
        embedding.fit(np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32))
    inputs = built.inputs(batch)
    query, item, pair = (
        torch.cat((inputs[p], embedded[p](inputs[p])), 1) for p in ("query", "item", "cross")
    )
    rows = torch.cat((query[batch.request_of], item[batch.item_of], pair[: len(batch)]), 1)
    expected = rank.heads(torch.relu(rank.first(rows))).squeeze(1)
    torch.testing.assert_close(built(batch)["rank"].logits["click"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits_of(built(batch)), logits_of(built(by_row)), rtol=1e-3, atol=1e-4)
    names = read_axes(rank)["first.weight"][1]
    assert names is not None and "price[number 0] embedded[1]" in names, "so that `train --from` finds them"
    assert read_axes(rank)["numbers.item.low"] == (("price[number 0]",), None)


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT, encoding="utf-8")
    message = refused(path, "features.brand_seen=null", "stages.1.numbers={kind: piecewise}")
    assert message == "stages.1.numbers: no feature is a number; drop it"
    message = refused(path, "stages.1.numbers={kind: periodic, bins: 4}")
    assert "stages.1.numbers" in message and "bins" in message

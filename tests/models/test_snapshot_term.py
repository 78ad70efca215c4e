"""Snapshot features next to the item row: logits and gradients equal those of one row a candidate."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from corank.batches.batch import Batch
from corank.models.joint import JointModel
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageOutput
from tests.support.equal_ranks import in_double
from tests.support.models import dense_gradients, two_tower
from tests.support.per_row_model import per_row
from tests.support.snapshot_batches import LAYOUT, snapshot_batch

Forward = Callable[[JointModel, Batch], dict[str, StageOutput]]


@pytest.fixture(autouse=True)
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rounding cannot hide an error."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def model(**changes: Any) -> JointModel:
    torch.manual_seed(0)
    built = JointModel(
        [
            TowersSettings(
                name="prerank", model="towers", value="click", keep=3, query=[9, 8], item=[12, 8], **changes
            ),
            MlpSettings(name="rank", model="mlp", keep=2, hidden=[16, 8]),
        ],
        LAYOUT,
    )
    built.dtype = torch.float64
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_()
    return built


def gradients(built: JointModel, batch: Batch, forward: Forward) -> dict[str, np.ndarray]:
    """Of a sum of all logits with weights of their own."""
    logits = torch.stack([z for output in forward(built, batch).values() for z in output.logits.values()])
    built.zero_grad(set_to_none=True)
    (logits * torch.linspace(-1, 2, logits.numel()).view_as(logits)).sum().backward()
    return dense_gradients(built) | {"logits": logits.detach().numpy()}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.integers(0, 10_000))
def test_it_equals_a_row_a_candidate_in_logits_and_gradients(seed: int) -> None:
    by_request, by_row, _ = snapshot_batch(seed)
    built = model()
    ours = gradients(built, in_double(by_request), lambda m, b: m(b))
    theirs = gradients(built, in_double(by_row), per_row)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        np.testing.assert_allclose(gradient, theirs[name], rtol=1e-9, atol=1e-10, err_msg=name)
    snapshot = [name for name in ours if ".snapshot." in name]
    assert len(snapshot) == 3 and all(np.abs(ours[name]).max() > 0 for name in snapshot)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.integers(0, 10_000))
def test_the_vectors_of_a_batch_are_as_of_each_items_earliest_request(seed: int) -> None:
    by_request, _, _ = snapshot_batch(seed)
    built, batch = model(), in_double(by_request)
    vectors = built(batch)["prerank"].vectors
    inputs, items = built.inputs(batch), len(batch.item_row)
    assert vectors is not None and batch.earliest is not None
    earliest = inputs["snapshot"][batch.earliest.long()]
    expected = two_tower(built).record_vectors(inputs["item"][:items], earliest)
    torch.testing.assert_close(vectors.items()[:items], expected, rtol=1e-10, atol=1e-10)

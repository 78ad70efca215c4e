"""Features that training leaves out row by row: what is left of them, and what is learnt of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from corank.models.settings.two_tower import TowersSettings
from corank.models.two_tower import FeatureDropout, Towers
from tests.support.configs import TEXT, refused
from tests.support.encoded_batches import LAYOUT


def of(rates: object) -> TowersSettings:
    fields = {"name": "prerank", "model": "towers", "keep": 3, "query": [8], "item": [8]}
    return TowersSettings.model_validate(fields | {"feature_dropout": rates})


def test_a_row_loses_the_whole_feature_or_has_more_of_it() -> None:
    torch.manual_seed(0)
    dropped, x = (
        FeatureDropout(LAYOUT, "item", {"item": 0.75, "user": 0.5}),
        torch.ones(4000, LAYOUT.width("item")),
    )
    item = LAYOUT.columns("item", ["item"])
    seen = dropped(x).numpy()
    assert (np.delete(seen, item, axis=1) == 1).all()
    assert (seen[:, item] == seen[:, item[:1]]).all()
    assert set(seen[:, item[0]]) == {0, 4}
    assert seen[:, item[0]].mean() == pytest.approx(1, abs=0.1)
    assert dropped.eval()(x) is x


def test_towers_leave_features_out_in_training_alone() -> None:
    torch.manual_seed(0)
    built = Towers(of({"item": 0.5, "user": 0.5}), LAYOUT)
    torch.manual_seed(0)
    plain = Towers(of({}), LAYOUT)
    for read, side in (("item_vectors", "item"), ("query_vectors", "query")):
        x = torch.randn(20, LAYOUT.width("item" if side == "item" else "query"))
        whole = getattr(plain, read)(x)
        assert not torch.equal(getattr(built.train(), read)(x), whole)
        assert torch.equal(getattr(built.eval(), read)(x), whole)


def test_what_is_learnt_of_an_id_is_shrunk_however_weights_are_scaled() -> None:
    """Items of one attribute whose targets are ±1 around its mean of 3: with .75 left out, an id moves it by .25."""
    torch.manual_seed(0)
    dropout = FeatureDropout(LAYOUT, "item", {"item": 0.75})
    x = torch.zeros(2, LAYOUT.width("item"))
    first = int(LAYOUT.columns("item", ["item"])[0])
    x[:, first] = torch.tensor([1.0, -1.0])
    y = torch.tensor([4.0, 2.0])
    layer, table = torch.nn.Linear(x.shape[1], 1), torch.nn.Parameter(torch.tensor(0.01))
    optimiser = torch.optim.Adam([*layer.parameters(), table], lr=0.05)
    for step in range(400):
        rows = torch.arange(512) % 2
        predicted = layer(dropout(x[rows] * table)).squeeze(1)
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * (1 - step / 400)
        optimiser.zero_grad()
        (predicted - y[rows]).square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        learnt = layer(dropout.eval()(x * table)).squeeze(1)
    np.testing.assert_allclose(learnt, [3.25, 2.75], atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{item_di: 0.5}", "unknown tower feature 'item_di'; did you mean 'item_id'?"),
        ("{x: 0.5}", "unknown tower feature 'x'; known tower features: brand, history, item_id"),
        ("{brand_seen: 0.5}", "unknown tower feature 'brand_seen'; did you mean 'brand'?"),
    ],
)
def test_only_features_of_the_towers_may_be_left_out(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT)
    name = change[1:].partition(":")[0]
    error = refused(path, f"stages.0.feature_dropout={change}")
    assert error.startswith(f"stages.prerank.feature_dropout.{name}: {message}")


@pytest.mark.parametrize("rate", [0, 1, "half"])
def test_a_share_is_between_0_and_1(rate: object) -> None:
    with pytest.raises(ValidationError, match="feature_dropout"):
        of({"item": rate})


def test_a_feature_that_is_gone_is_left_out_of_the_rates() -> None:
    assert of({"item": 0.5, "tags": 0.1}).without_features(["tags"]).feature_dropout == {"item": 0.5}

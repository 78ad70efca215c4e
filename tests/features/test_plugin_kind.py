"""Kinds of features from outside: one class each, and packing, training, export and serving know them."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import polars as pl
import pytest
from annotated_types import Len
from pydantic import PositiveFloat
from scipy.special import expit

import corank
from corank.analysis.logged_request import logged_request
from corank.core.errors import PluginError
from corank.core.types import Doubles
from corank.evaluation.predict import predict_split
from corank.features.encoding import Encoded, Encoder
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature, DerivedFeature, Use
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import to_numbers
from corank.funnel.funnel import Funnel
from corank.funnel.random_requests import make_example
from corank.funnel.request import Request
from tests.support.simulated_runs import make_world, trained_run


class CyclicalFeature(ColumnFeature):
    """A number that comes round, such as the hour of the day, as a point on a circle: its sine and cosine."""

    kind: Literal["cyclical"]
    period: PositiveFloat

    uses: ClassVar[frozenset[Use]] = frozenset({"number"})

    @property
    def width(self) -> int:
        return 2

    def encode(self, encoder: Encoder | None, values: pl.Series, name: str) -> Encoded:
        angle = 2 * np.pi * to_numbers(values, name) / self.period
        circle = np.stack((np.sin(angle), np.cos(angle)), axis=1)
        return np.where(np.isnan(circle), 0, circle).astype(np.float32)

    def numbers(self, values: pl.Series, name: str) -> Doubles:
        return to_numbers(values, name)

    def sample(self, encoder: Encoder | None, rng: np.random.Generator) -> float:
        return self.period / 4


class DifferenceFeature(DerivedFeature):
    """a − b of two numbers, and how far they are apart."""

    kind: Literal["difference"]
    of: Annotated[list[str], Len(2, 2)]

    operands_text: ClassVar[str] = "two numbers"

    @property
    def width(self) -> int:
        return 2

    @property
    def operands(self) -> Sequence[str]:
        return self.of

    @property
    def operand_uses(self) -> Sequence[Collection[Use]]:
        return [{"number"}, {"number"}]

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        difference = operands.number(self.of[0]) - operands.number(self.of[1])
        return np.stack((difference, np.abs(difference)), axis=1) / 100


@pytest.fixture(scope="module", autouse=True)
def plugins() -> Iterator[None]:
    """The kinds, registered; other tests do not know them."""
    assert "id" in FEATURE_KINDS  # corank's own are loaded
    before = dict(FEATURE_KINDS._parts)
    FEATURE_KINDS._parts.pop("cyclical", None)  # that of the examples, if a test has loaded it
    FEATURE_KINDS.add("cyclical", CyclicalFeature)
    FEATURE_KINDS.add("difference", DifferenceFeature)
    yield
    FEATURE_KINDS._parts.clear()
    FEATURE_KINDS._parts.update(before)


FEATURES = (
    "features.hour={side: context, kind: cyclical, period: 24}",
    "features.price={side: item, kind: cyclical, period: 7}",
    "features.apart={kind: difference, of: [hour, price]}",
    "features.dear={kind: difference, of: [price, quality]}",
    "train.epochs=1",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_world(tmp_path_factory.mktemp("world"), requests=200, candidates=10, users=20, items=40)
    corank.pack(path, FEATURES)
    return path


@pytest.mark.slow
def test_a_kind_from_outside_is_packed_trained_and_ranked_as_in_training(config: Path) -> None:
    run = trained_run(config, config.parent / "run", *FEATURES)
    corank.export(run.folder, config.parent / "bundle")
    funnel, packed = Funnel.open(config.parent / "bundle"), run.packed()
    model, _ = run.model(packed)
    predictions = predict_split(model, packed, "test")
    start = predictions.requests.start
    for number in range(10):
        answer = funnel.logits(Request.parse(logged_request(run, "test", number)))
        rows = slice(start[number], start[number + 1])
        for stage, labels in predictions.logits.items():
            for label, logits in labels.items():
                np.testing.assert_allclose(expit(answer[stage][label]), expit(logits[rows]), atol=1e-5)
    made_up = Request.parse(make_example(funnel, np.random.default_rng(0)))
    assert made_up.context["hour"] == 6.0 and funnel.rank(made_up)["items"]


# What the registry refuses


class NoEncode(ColumnFeature):
    kind: Literal["no_encode"]


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("no_encode", NoEncode, "NoEncode must define encode"),
    ],
)
def test_an_unfit_kind_is_refused_by_name(name: str, part: object, message: str) -> None:
    with pytest.raises(PluginError, match=f"feature kind '{name}': .*{message}"):
        FEATURE_KINDS.add(name, part)

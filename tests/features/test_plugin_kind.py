"""Kinds of features from outside: one class each, and packing, training, export and serving know them."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
from annotated_types import Len

import corank
from corank.core.types import Doubles
from corank.features.encoding import Encoder
from corank.features.feature_kind import FEATURE_KINDS, DerivedFeature, Use
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.funnel.funnel import Funnel
from corank.funnel.random_requests import make_example
from corank.funnel.request import Request
from corank.testing.parity import assert_scored_as_evaluated
from corank.testing.parts import registered, unregister
from corank.testing.worlds import make_world, trained_run
from examples.plugins.cyclical_time import CyclicalFeature


class SampledFeature(CyclicalFeature):
    """Says what a made-up request has."""

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


unregister(FEATURE_KINDS, "cyclical")  # registered in tests of this file alone


@pytest.fixture(scope="module", autouse=True)
def plugins() -> Iterator[None]:
    with registered(FEATURE_KINDS, cyclical=SampledFeature, difference=DifferenceFeature):
        yield


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
    funnel = Funnel.open(config.parent / "bundle")
    assert_scored_as_evaluated(run, funnel)
    made_up = Request.parse(make_example(funnel, np.random.default_rng(0)))
    assert made_up.context["hour"] == 6.0 and funnel.rank(made_up)["items"]

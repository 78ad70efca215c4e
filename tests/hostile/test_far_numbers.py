"""A number far outside of what training saw is clipped to it, offline as online, and counted."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.features.scale import Scale, Scaling
from corank.features.training_values import TrainingValues
from corank.serving.funnel.request import Request
from tests.support.shared import derived

SEEN = pl.Series([-3.0, 0.5, 7.0, None])
FAR = [-1e308, -1e300, 1e300, 1e308]


def fitted(form: Scaling) -> Scale:
    values = TrainingValues("x", SEEN.alias("value").to_frame().lazy(), lambda frame: frame.collect())
    return Scale.fit(values, form).clip_to(values)


@pytest.mark.parametrize("form", ["none", "standard", "log", "quantile"])
def test_far_numbers_are_scaled_as_the_nearest_that_training_saw(form: Scaling) -> None:
    scale = fitted(form)
    ends = scale.scale(np.array([-3.0, 7.0])).tolist()
    assert scale.scale(np.array(FAR)).tolist() == [ends[0], ends[0], ends[1], ends[1]]


@pytest.mark.parametrize("form", ["none", "standard", "log", "quantile"])
def test_numbers_that_training_saw_are_scaled_as_without_a_range(form: Scaling) -> None:
    values = TrainingValues("x", SEEN.alias("value").to_frame().lazy(), lambda frame: frame.collect())
    numbers = np.array([-3.0, 0.5, 7.0, 1.25, np.nan])
    assert fitted(form).scale(numbers).tobytes() == Scale.fit(values, form).scale(numbers).tobytes()


@pytest.mark.slow
def test_a_request_with_a_far_number_scores_as_with_the_nearest_and_is_counted() -> None:
    funnel, request = derived().funnel, derived().request("test", 0)
    limits = funnel.request_encoder.encoders.fitted["user_0"].limits
    assert limits is not None

    def scores(number: float) -> list[Any]:
        changed = request | {"user": request["user"] | {"user_0": number}}
        return list(funnel.rank(Request.parse(changed))["items"])

    assert scores(-1e308) == scores(limits[0]) and scores(1e308) == scores(limits[1])
    changed = request | {"user": request["user"] | {"user_0": 1e308}}
    encoded = funnel.request_encoder.encode(Request.parse(changed))
    assert encoded.clipped["user.user_0"] == 1

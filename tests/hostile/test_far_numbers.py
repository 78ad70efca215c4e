"""A number far outside of what training saw is clipped to it, offline as online, and counted."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from corank.data.packing.pack import pack_log
from corank.features.scale import Scale, Scaling
from corank.funnel.request import Request
from corank_serve.log.log_format import LogColumn
from corank_serve.log.request_log import RequestLog
from tests.support.served_logs import add_labels
from tests.support.shared import derived
from tests.support.training_values import fit_series

SEEN = pl.Series([-3.0, 0.5, 7.0, None])


@pytest.mark.parametrize("form", ["none", "standard", "log", "quantile"])
def test_far_numbers_are_scaled_as_the_nearest_that_training_saw_and_those_as_they_are(form: Scaling) -> None:
    scale = fit_series(lambda values: Scale.fit(values, form).clip_to(values), SEEN)
    low, high = scale.scale(np.array([-3.0, 7.0])).tolist()
    assert scale.scale(np.array([-1e308, -1e300, 1e300, 1e308])).tolist() == [low, low, high, high]
    numbers = np.array([-3.0, 0.5, 7.0, 1.25, np.nan])
    unclipped = fit_series(lambda values: Scale.fit(values, form), SEEN)
    assert scale.scale(numbers).tobytes() == unclipped.scale(numbers).tobytes()


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
    (encoded,) = funnel.encode(Request.parse(changed)).requests
    assert encoded.clipped["user.user_0"] == 1


def test_the_log_has_numbers_near_the_range_as_they_are_and_far_ones_as_the_model_saw_them() -> None:
    column = LogColumn(pa.float64(), limits=(-1.0, 3.0))
    numbers = [None, -1e30, -41.1, -40.9, 0.0, 42.9, 43.1, 1e30]
    assert column.to_array("x", numbers).to_pylist() == [None, -1.0, -1.0, -40.9, 0.0, 42.9, 3.0, 3.0]
    constant = LogColumn(pa.float64(), limits=(0.0, 0.0))
    assert constant.to_array("x", [-1.0, 10.0, 10.1]).to_pylist() == [-1.0, 10.0, 0.0]


NUMBER = "context_2"
"""A number of the context with scale `standard`."""


@pytest.mark.slow
def test_one_hostile_request_does_not_move_the_next_scale(tmp_path: Path) -> None:
    case = derived()
    requests = [case.request("train", n) for n in range(sum(map(len, case.packed.splits["train"])))]
    later = [case.request(split, 0) for split in ("valid", "test")]
    run = case.funnel.run
    ranked, ranked_later = ([run(Request.parse(request)) for request in some] for some in (requests, later))

    def next_scale(name: str, *hostile: dict[str, Any]) -> Scale:
        """What the next training fits to a log of the requests and of hostile ones."""
        log = RequestLog(tmp_path / name)
        ends = [run(Request.parse(request)) for request in hostile]
        for one in [*ranked * (600 // len(requests)), *ranked_later, *ends]:
            log.add(case.funnel, one)
        labelled = tmp_path / f"{name}.parquet"
        add_labels(case, log.flush(complete=True), labelled)
        data = case.config.data.model_copy(update={"log": str(labelled)})
        packed = pack_log(data, case.config.declared, case.base, tmp_path / f"packed-{name}")
        scale = packed.encoders.fitted[NUMBER]
        assert isinstance(scale, Scale) and scale.form == "standard"
        return scale

    before = next_scale("before")
    for far in (1e30, -1e30):
        odd = requests[0] | {"context": requests[0]["context"] | {NUMBER: far}}
        after = next_scale(f"after {far}", odd)
        assert after.mean == pytest.approx(before.mean, abs=0.01 * before.std)
        assert after.std == pytest.approx(before.std, rel=0.01)
        assert after.limits == before.limits

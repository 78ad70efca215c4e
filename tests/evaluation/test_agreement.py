"""Numbers computed twice: how far apart they are, and how many are too far."""

from math import inf, nan

import numpy as np

from corank.evaluation.agreement import Agreement, gaps
from corank.evaluation.rows import name_row, to_frame


def test_gaps_are_relative_beyond_1_and_infinite_where_one_alone_is_a_number() -> None:
    found, wanted = [0.5, 103.0, 1.0, nan, nan, inf], [0.25, 100.0, nan, 1.0, nan, 1.0]
    np.testing.assert_allclose(gaps(found, wanted), [0.25, 0.03, inf, inf, 0.0, inf])


def test_rows_count_what_differs_and_say_where_most() -> None:
    agreement = Agreement()
    assert agreement.reasons == ["nothing could be compared"]
    agreement.add("rank", "score", np.array([0.0, 1e-7]), 1e-5, "request 1")
    agreement.add("", "propensity", np.zeros(2), 1e-5, "request 1")
    assert agreement.reasons == []
    agreement.add("rank", "score", np.array([2e-5, 0.25]), 1e-5, "request 2")
    agreement.add("rank", "score", np.array([inf]), 1e-5, "request 3")
    rows = {name_row(row): row for row in agreement.rows}
    score, propensity = rows["rank.agreement.score"], rows["agreement.propensity"]
    assert (score["value"], score["n"], score["differ"], score["where"]) == (0.25, 5, 3, "request 3")
    assert (score["verdict"], propensity["verdict"], propensity["where"]) == ("differs", "agrees", "")
    assert agreement.largest == 0.25
    reason = "rank score: 3 of 5 differ by more than 1e-05, most in request 3, by inf"
    assert agreement.reasons == [reason]
    assert {"value", "n", "differ", "where"} <= set(to_frame(agreement.rows).columns)

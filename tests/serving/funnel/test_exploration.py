"""Drawn pages: what is drawn, at what probability, under rules, and what answers say of it."""

from typing import Any

import numpy as np
import pytest

from corank.core.inclusion import inclusion_probabilities
from corank.core.page import Page
from corank.core.types import Doubles, Longs
from corank.features.log_schema import DataSettings
from corank.funnel.exploration import MOST, Draw, Fill, request_id
from corank.funnel.funnel import Funnel
from corank.funnel.ranking import Ranking
from corank.funnel.request import Request
from tests.serving.funnel.test_page import ask, with_page
from tests.support.cases import Case
from tests.support.random_worlds import PAGED
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(PAGED)


def drawn(funnel: Funnel, request: dict[str, Any], temperature: float | None, draws: int) -> list[Ranking]:
    parsed = Request.parse(request)
    rankings = [Ranking(parsed, draw=Draw(seed, temperature)) for seed in range(draws)]
    assert not any(funnel.run_many(rankings))
    return rankings


def test_a_uniform_page_is_of_all_candidates(case: Case) -> None:
    funnel, asked = with_page(case.funnel), ask(case)
    n = len(asked["candidates"])
    rankings = drawn(funnel, asked, None, 120)
    seen = np.bincount(np.concatenate([one.answered[0] for one in rankings]), minlength=n)
    k = len(rankings[0].ids)
    assert k < n and (seen > 0).all()
    assert rankings[0].propensity == [k / n] * k and rankings[0].explored == "uniform:0000000000000000"
    answer = rankings[0].to_answer()
    assert len(answer["items"]) == 4 and answer["explored"] == "uniform:0000000000000000"
    assert all(np.isfinite(item["score"]) for one in rankings for item in one.items)
    again = funnel.run(Request.parse(asked), draw=Draw(7))
    assert again.items == rankings[7].items
    first = {cut.stage: cut.score for cut in again.cuts}[again.stage]
    assert again.stage == "prerank" and again.items[0]["score"] == first[again.answered[0][0]]
    plain = funnel.run(Request.parse(asked)).to_answer()
    assert "explored" not in plain and "propensity" not in plain


def test_softened_draws_lean_to_the_value_at_the_probability_that_they_say(case: Case) -> None:
    funnel = with_page(case.funnel)
    last = funnel.run(Request.parse(ask(case))).cuts[-1]
    temperature = float(np.std(last.score))
    rankings = drawn(funnel, ask(case), temperature, 300)
    wanted = np.zeros(len(rankings[0].candidates))
    wanted[last.alive] = inclusion_probabilities(last.score.astype(np.float64) / temperature, 4)
    found = np.mean([np.isin(np.arange(len(wanted)), one.answered[0]) for one in rankings], axis=0)
    assert np.abs(found - wanted).max() < 5 * 0.5 / 300**0.5
    assert rankings[0].drawn is not None
    assert np.nan_to_num(rankings[0].drawn.propensity) == pytest.approx(wanted)


def test_the_coldest_draw_is_the_ranked_page_whose_propensities_say_so(case: Case) -> None:
    """Candidates of equal values are drawn evenly, and everything else by value, without an overflow."""
    funnel = with_page(case.funnel)
    for one in drawn(funnel, ask(case), 1e-12, 3):
        assert one.propensity is not None and np.isfinite(one.propensity).all()
        last = one.cuts[-1]
        value = dict(zip(last.alive.tolist(), last.score.tolist(), strict=True))
        shown = [value[n] for n in one.answered[0].tolist()]
        assert shown == sorted(value.values(), reverse=True)[: len(shown)]
        assert min(one.propensity) > 0.05


def test_drawn_pages_keep_the_rules_and_inverse_propensities_sum_to_the_candidates(case: Case) -> None:
    funnel = with_page(case.funnel, rules=[{"at_most": 1, "of": "item_2", "within": 4}])
    rankings = drawn(funnel, ask(case), None, 150)
    n = len(rankings[0].candidates)
    ids = dict(zip(case.items["item_id"], case.items["item_2"], strict=True))
    for one in rankings:
        values = [ids[id_] for id_ in one.ids if ids[id_] is not None]
        assert len(values) == len(set(values)) or len(set(ids.values())) < 4
    inverse = np.array([np.sum(1 / np.array(one.propensity)) for one in rankings])
    error = inverse.std() / np.sqrt(len(inverse))
    assert abs(inverse.mean() - n) < 5 * error + 0.02 * n


@pytest.mark.parametrize("rules", [[], [{"at_most": 1, "of": "item_2"}]])
def test_a_page_of_one_candidate_or_none_is_drawn_too(case: Case, rules: list[dict[str, Any]]) -> None:
    funnel, known = with_page(case.funnel, rules=rules), ask(case)["candidates"][:1]
    for temperature in (None, 0.1):
        for candidates, shown in (([10**9], []), (known, known)):
            (one,) = drawn(funnel, ask(case, candidates=candidates), temperature, 1)
            assert one.ids == shown and one.propensity == [1.0] * len(shown)


def test_of_many_candidates_under_rules_some_are_drawn_before() -> None:
    a, slots, draws = 130, 2, 150
    kind = np.arange(a) % 4

    def fill_of(among: Longs) -> Fill:
        """Two of different kinds."""

        def fill(value: Doubles, _: int) -> Page:
            order = np.argsort(-value)
            second = order[np.flatnonzero(kind[among][order] != kind[among][order[0]])[0]]
            return Page(np.array([order[0], second]), [])

        return fill

    inverse = []
    for seed in range(draws):
        shown, chance = Draw(seed).choose(np.zeros(a), slots, fill_of)
        assert kind[shown[0]] != kind[shown[1]] and (chance[shown] < MOST * slots / a).all()
        inverse.append(float(np.sum(1 / chance[shown])))
    assert abs(np.mean(inverse) - a) < 5 * np.std(inverse) / draws**0.5


def test_a_draw_is_read_as_it_is_written() -> None:
    for one in (Draw(5), Draw(2**64 - 1, 0.05), Draw(0, 1e-7)):
        assert Draw.parse(str(one)) == one
    for text in (
        "uniform",
        "softened:00",
        "uniform@1:00",
        "x:0",
        "softened@x:0",
        "uniform:xyz",
        "softened@0.0:0",
        "softened@nan:0",
    ):
        with pytest.raises(ValueError, match=r"expected|invalid|could not"):
            Draw.parse(text)


def test_a_request_is_named_by_the_key_of_the_log_or_by_user_and_time() -> None:
    keys: dict[str, Any] = {"log": "log.parquet", "user": "user_id", "item": "item_id", "time": "at"}
    keys |= {"labels": {"click": {"column": "click"}}, "split": {"valid": "2026-01-02"}}
    by_session = DataSettings(request=["user_id", "session"], **keys)
    asked = Request({"id": 3}, {"session": "a"}, candidates=[1])
    assert request_id(asked, by_session) == request_id(Request({"id": 3}, {"session": "a"}), by_session)
    assert request_id(asked, by_session) != request_id(Request({"id": 3}, {"session": "b"}), by_session)
    unnamed = DataSettings(request=["request_id"], **keys)
    timed = [Request({"id": 3}, time=5, candidates=[n]) for n in (1, 2)]
    assert request_id(timed[0], unnamed) == request_id(timed[1], unnamed)
    assert request_id(asked, unnamed) != request_id(asked, unnamed)

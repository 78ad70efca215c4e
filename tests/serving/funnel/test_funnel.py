"""The funnel against the model it was exported from, and how it ranks, cuts and refuses."""

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from corank.core.errors import BundleError, RequestError
from corank.core.panics import PanicError
from corank.core.types import Floats, Numbers
from corank.funnel.deadlines import DeadlineTimer
from corank.funnel.funnel import SOURCES, Funnel
from corank.funnel.ranking import Ranking
from corank.funnel.request import Request
from corank.funnel.stage_scorer import SCORERS, Candidates, PartsScorer
from tests.support.cases import Case
from tests.support.panics import panic
from tests.support.parity import assert_axes_named, assert_ranked_as_alone, assert_scored_as_trained
from tests.support.random_worlds import ALONE, DERIVED, LISTED, LONG, RICH, Drawn, drawn_worlds
from tests.support.shared import shared_case
from tests.support.waiting import eventually


@pytest.mark.slow
def test_funnel_scores_as_the_training_model_does() -> None:
    assert_scored_as_trained(shared_case(DERIVED))
    assert_axes_named(shared_case(DERIVED).model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "drawn",
    [RICH, DERIVED, pytest.param(RICH | {"text_ids": True}, marks=pytest.mark.thorough)],
    ids=["rich", "derived", "texts"],
)
def test_answers_do_not_depend_on_what_else_is_ranked(drawn: Drawn) -> None:
    assert_ranked_as_alone(shared_case(drawn))


# no shrinking: each try is an export
@pytest.mark.slow
@pytest.mark.thorough
@settings(
    max_examples=1,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(drawn=drawn_worlds)
@example(drawn=LONG)
@example(drawn=LISTED)
@example(drawn=ALONE)
def test_funnels_of_random_worlds_score_as_the_training_model_does(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn
) -> None:
    fixed = drawn in (LONG, LISTED, ALONE)
    case = shared_case(drawn) if fixed else Case.of(tmp_path_factory.mktemp("case"), drawn)
    assert_scored_as_trained(case)
    assert_ranked_as_alone(case, drawn["seed"])
    assert_axes_named(case.model)


@pytest.fixture(scope="module")
def rich() -> Case:
    return shared_case(RICH)


def test_an_address_is_opened_by_what_registered_for_it(
    rich: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Any]()

    def open_shelf(address: str, trust: object, cache: Path | None) -> Funnel | None:
        asked.append((address, trust, cache))
        return rich.funnel if address == "shelf:1" else None

    monkeypatch.setattr(SOURCES, "_parts", {"shelf": open_shelf})
    monkeypatch.setattr(SOURCES, "_loaded", True)
    assert Funnel.open("shelf:1", cache=tmp_path) is rich.funnel
    with pytest.raises(BundleError, match="shelf:2: neither a bundle nor an address"):
        Funnel.open("shelf:2")
    assert asked == [("shelf:1", None, tmp_path), ("shelf:2", None, None)]
    assert Funnel.open(str(rich.base / "bundle")).manifest == rich.funnel.manifest and len(asked) == 2


@pytest.fixture
def wide(rich: Case) -> dict[str, Any]:
    """A request for all 16 items, each with its crosses."""
    request = rich.request("test", 0)
    rng = np.random.default_rng(2)
    request["candidates"] = [
        {
            "id": int(n),
            "cross_0": float(rng.normal(0, 20)),
            "cross_1": ["w1"],
            "cross_2": [0.5, float(n), 1.0],
        }
        for n in rng.permutation(16)
    ]
    return request | {"keep": {"prerank": 9, "rank": 5}}


def ids(request: dict[str, Any]) -> list[Any]:
    return [candidate["id"] for candidate in request["candidates"]]


def test_stages_order_by_calibrated_value_and_cut_by_quota(rich: Case, wide: dict[str, Any]) -> None:
    answer = rich.funnel.rank(Request.parse(wide | {"trace": True}))
    logits = rich.funnel.logits(Request.parse(wide))
    score = {s: rich.calibrators[s]["click"].apply(z["click"].astype(np.float64)) for s, z in logits.items()}
    assert all(np.ptp(values) > 0.01 for values in score.values())
    first = np.argsort(-score["prerank"], kind="stable")
    second = first[:9][np.argsort(-score["rank"][first[:9]], kind="stable")]
    assert [item["id"] for item in answer["items"]] == [ids(wide)[n] for n in second[:5]]
    assert [entry["id"] for entry in answer["trace"]] == ids(wide)
    for name, order in (("prerank", first), ("rank", second)):
        for rank, n in enumerate(order.tolist(), 1):
            scored = {"score": pytest.approx(score[name][n], abs=1e-6), "rank": rank}
            assert answer["trace"][n]["stages"][name] == scored
    cuts = [entry["cut"] for entry in answer["trace"]]
    assert [cuts[n] for n in second] == [None] * 5 + ["rank"] * 4
    assert all(cuts[n] == "prerank" and len(answer["trace"][n]["stages"]) == 1 for n in first[9:])
    assert (answer["unknown"], answer["missing"]) == ([], [])
    assert answer["items"] == [
        {"id": ids(wide)[n], "score": answer["trace"][n]["stages"]["rank"]["score"]} for n in second[:5]
    ]
    assert "trace" not in rich.funnel.rank(Request.parse(wide | {"trace": False}))


def test_quotas_are_the_bundles_unless_given(rich: Case, wide: dict[str, Any]) -> None:
    def counts(keep: dict[str, int]) -> tuple[int, int]:
        answer = rich.funnel.rank(Request.parse(wide | {"keep": keep, "trace": True}))
        return sum("rank" in entry["stages"] for entry in answer["trace"]), len(answer["items"])

    assert counts({}) == (4, 2)
    assert counts({"rank": 3}) == (4, 3)
    assert counts({"prerank": 7}) == (7, 2)
    assert counts({"prerank": 99, "rank": 99}) == (16, 16)


def test_ties_keep_the_order_given(rich: Case, wide: dict[str, Any]) -> None:
    # items that are described alike and not in the vocabulary score alike
    alike = {"item_0": [1], "item_1": 3, "item_2": "w1", "cross_0": 1.0, "cross_1": ["w1"]}
    wide["candidates"] = [{"id": n} | alike for n in (1007, 1003, 1009, 1001)]
    answer = rich.funnel.rank(Request.parse(wide | {"keep": {"rank": 3}}))
    assert [item["id"] for item in answer["items"]] == [1007, 1003, 1009]
    assert len({item["score"] for item in answer["items"]}) == 1


def test_unknown_candidates_are_left_out_and_named(rich: Case, wide: dict[str, Any]) -> None:
    known = rich.funnel.rank(Request.parse(wide))
    strangers = [1001, {"id": 1002, "cross_0": 1.0}]
    wide["candidates"] = [strangers[0], *wide["candidates"], strangers[1]]
    answer = rich.funnel.rank(Request.parse(wide))
    assert answer["unknown"] == [1001, 1002]
    assert answer["items"] == known["items"]
    wide["candidates"] = strangers
    empty = rich.funnel.rank(Request.parse(wide | {"trace": True}))
    assert (empty["items"], empty["trace"], empty["unknown"]) == ([], [], [1001, 1002])


def test_what_a_request_lacks_is_named_and_encoded_as_missing(rich: Case, wide: dict[str, Any]) -> None:
    wide["user"]["user_0"], wide["context"]["context_0"] = 50.0, "w1"
    full = rich.funnel.logits(Request.parse(wide))
    del wide["user"]["user_0"], wide["context"]["context_0"], wide["candidates"][3]["cross_0"]
    answer = rich.funnel.rank(Request.parse(wide))
    assert answer["missing"] == ["user.user_0", "context.context_0", "cross.cross_0"]
    lacking = rich.funnel.logits(Request.parse(wide))
    wide["user"]["user_0"] = wide["context"]["context_0"] = wide["candidates"][3]["cross_0"] = None
    null = Request.parse(wide)
    assert rich.funnel.rank(null)["missing"] == []
    for stage, labels in rich.funnel.logits(null).items():
        for label, logits in labels.items():
            np.testing.assert_array_equal(logits, lacking[stage][label])
            assert (logits != full[stage][label]).any()


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": []}, "request: candidates: expected a list of one or more; received []"),
        ({"candidates": [1, 2, 1]}, "candidates: 1 is there twice; give each candidate once"),
        ({"candidates": [1.5]}, "candidates.0: needs an `id`, a whole number or text; received 1.5"),
        ({"candidates": [1, "2"]}, "candidates: 'id' mixes types or is out of range: unexpected value"),
        (
            {"candidates": [{"id": 1, "cros_0": 1}]},
            "candidates.0: the bundle knows no 'cros_0' here; did you mean 'cross_0'?",
        ),
        (
            {"candidates": [{"id": 1, "cross_0": "high"}]},
            "candidates: feature 'cross_0': expected numbers; received ['high'] (String)",
        ),
        ({"user": {"user_9": 1}}, "user: the bundle knows no 'user_9' here; did you mean 'user_"),
        (
            {"user": {"id": "ann"}},
            "user.id: expected whole numbers, as in the log; received 'ann'",
        ),
        (
            {"user": {"history_0": 7}},
            "user.history_0: expected a list of item ids, the newest last; received 7",
        ),
        ({"keep": {"ranker": 3}}, "keep: no stage 'ranker'; the bundle's stages are prerank, rank"),
        ({"candidate": [1]}, "request: unknown key 'candidate'; did you mean 'candidates'?"),
    ],
)
def test_unsound_request_is_refused_and_names_the_field(
    rich: Case, change: dict[str, Any], message: str
) -> None:
    request = {"user": {"id": 1}, "context": {}, "candidates": [1, 2, 3]} | change
    with pytest.raises(RequestError) as error:
        rich.funnel.rank(Request.parse(request))
    assert str(error.value).startswith(message)
    assert "polars" not in str(error.value).lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("{", "not valid JSON: "),
        ("{}", "user: required, but not given"),
    ],
)
def test_file_that_is_no_request_is_refused(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    path = tmp_path / "request.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RequestError) as error:
        Request.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


# Deadlines


def test_runs_are_told_to_end_when_their_time_is_over_and_not_before() -> None:
    watch, now = DeadlineTimer(), time.perf_counter()
    deadlines = [watch.until(now + after) for after in (3600, 0.045, 0.01, 0.025)]
    later, *soon = [one.__enter__() for one in deadlines]
    eventually(lambda: all(one.terminate for one in soon))
    assert not later.terminate
    for one in deadlines:
        one.__exit__(None, None, None)


# Scorers


def test_candidates_are_scored_in_the_order_given(rich: Case) -> None:
    """A stage that cuts nobody hands all candidates on in another order."""
    funnel = rich.funnel
    batch = funnel.encode(Request.parse(rich.request("test", 0)))
    mixed = np.random.default_rng(0).permutation(len(batch.positions))
    for stage in funnel.manifest.stages:
        in_order, reordered, some = (
            funnel.scorer.evaluate(stage, Candidates(batch, alive, {}))[0][:, stage.labels.index("click")]
            for alive in (np.arange(len(mixed)), mixed, mixed[: len(mixed) // 2])
        )
        np.testing.assert_allclose(reordered, in_order[mixed], atol=1e-6)
        np.testing.assert_allclose(some, reordered[: len(some)], atol=1e-6)


# Several requests at once


class OneRequest(PartsScorer):
    """The scorer of the bundle, of one request at a time; it fails for one whose first candidate is item 5 or 6."""

    one_request = True

    def evaluate(self, candidates: Candidates) -> tuple[Floats, Numbers]:
        (request,) = candidates.batch.requests
        if request.candidates[0] == 5:
            raise ValueError("no score for item 5")
        if request.candidates[0] == 6:
            panic()
        return super().evaluate(candidates)


@pytest.mark.parametrize(("item", "kind"), [(5, ValueError), (6, PanicError)])
def test_a_scorer_of_one_request_at_a_time_gets_one_and_its_failure_is_that_requests_own(
    rich: Case, wide: dict[str, Any], monkeypatch: pytest.MonkeyPatch, item: int, kind: type[Exception]
) -> None:
    others = [rich.request("test", n) for n in range(3)]
    failing = wide | {"candidates": sorted(wide["candidates"], key=lambda one: one["id"] != item)}
    monkeypatch.setitem(SCORERS._parts, "parts", OneRequest)
    funnel = Funnel.open(rich.base / "bundle")
    *answers, error, last = funnel.rank_many([*others, failing, wide])
    assert isinstance(error, kind)
    with pytest.raises(kind):
        funnel.rank(failing)
    assert [*answers, last] == [rich.funnel.rank(one) for one in (*others, wide)]


def test_each_request_of_several_has_its_own_deadline(rich: Case, wide: dict[str, Any]) -> None:
    funnel, (first, last) = copy.copy(rich.funnel), rich.funnel.manifest.stages
    stages = [first, last.model_copy(update={"deadline_ms": 1.0})]
    funnel.manifest = rich.funnel.manifest.model_copy(update={"stages": stages})
    funnel._timer, now = DeadlineTimer(), time.perf_counter()
    late, in_time = (Ranking(Request.parse(wide), now + late) for late in (-3600, 3600))
    assert funnel.run_many([late, in_time]) == [None, None]
    assert late.fallback == {"stage": "rank", "why": "skipped"} and in_time.fallback is None
    assert in_time.to_answer() == rich.funnel.rank(wide)
    assert [cut.stage for cut in late.cuts] == ["prerank"] and len(late.to_answer()["items"]) == 5

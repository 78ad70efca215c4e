"""The evaluation's document, figure by figure, on two small requests counted by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest

import corank
from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.metrics.requests import Requests
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.predictions import IDENTITY, LEVELS, STAGES, document_of, logit, predictions

ORDER = ["gauc", "gauc_user_day", "request_auc", "mrr", "ndcg@5", "ndcg@10", "hit@5", "hit@10"]
POINT = ["auc", *ORDER, "logloss", "logloss_calibrated", "pcoc", "pcoc_calibrated", "ece", "ece_calibrated"]


@pytest.fixture
def document() -> dict[str, Any]:
    truth = {"click": np.array([0.9, 0.1, 0.5, 0.6, 0.4, 0.3], np.float32)}
    return document_of(predictions(), STAGES, LEVELS, IDENTITY, truth, "test")


def test_figures_of_exposed_candidates(document: dict[str, Any]) -> None:
    """Shown were the first, second and fifth: clicked .8, not clicked .6, clicked .3 (by the pre-ranker)."""
    prerank = document["stages"]["prerank"]["exposed"]["click"]
    assert prerank["auc"] == 0.5  # .8 above .6, .3 below it
    assert prerank["gauc"] == 1  # user 7 alone has both classes
    assert prerank["logloss"] == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.3)) / 3)
    assert prerank["pcoc"] == pytest.approx((0.8 + 0.6 + 0.3) / 2)
    assert prerank["ece"] == pytest.approx((0.2 + 0.6 + 0.7) / 3)  # each a bin of its own
    assert prerank["n"] == 3
    rank = document["stages"]["rank"]["exposed"]["click"]
    assert rank["auc"] == 0  # .6 and .4, both below .9
    assert rank["gauc"] == 0
    order = document["stages"]["rank"]["exposed"]["order"]
    assert order["auc"] == 0  # ordered .3, not ordered .8
    assert order["n"] == 2  # where it is known
    assert order["gauc"] is None


def test_figures_of_all_candidates(document: dict[str, Any]) -> None:
    prerank = document["stages"]["prerank"]["candidates"]["click"]
    # cut is the fourth, below all others; the ranker's cut the third, and the retrieved are not its own
    assert prerank["cut_auc"] == 1
    assert document["stages"]["rank"]["candidates"]["click"]["cut_auc"] == 1
    # Σ p_i (1 − p_j) [s_i > s_j] / Σ p_i (1 − p_j), own pairs half
    s, p = [0.8, 0.6, 0.4, 0.2, 0.3, 0.5], [0.9, 0.1, 0.5, 0.6, 0.4, 0.3]
    pairs = [(s[i], s[j], p[i] * (1 - p[j])) for i in range(6) for j in range(6)]
    right = sum(w * ((a > b) + 0.5 * (a == b)) for a, b, w in pairs)
    assert prerank["auc"] == pytest.approx(right / sum(w for *_, w in pairs))
    assert prerank["n"] == 6
    # no truth of orders
    assert document["stages"]["rank"]["candidates"]["order"]["auc"] is None


def test_figures_of_the_cascade(document: dict[str, Any]) -> None:
    """Only the first request has more than two candidates. Pre-ranker's order 1 2 3 4, ranker's 2 4 1 3."""
    cascade = document["cascade"]
    assert cascade["click_recall@2"] == 1
    assert cascade["agree_recall@1@2"] == 1  # the ranker's best is the pre-ranker's second
    assert cascade["truth_recall@1@2"] == 1  # the truth's best is its first
    assert cascade["best_cut@2"] == pytest.approx((0.2 + 0.7) / (0.6 + 0.9 + 0.2 + 0.7))  # by the ranker
    assert cascade["overlap@1"] == 0.5  # request one: 1 against 2; request two: its second, by both
    assert cascade["eligible"] == {
        "click_recall@2": 1,
        "agree_recall@1@2": 1,
        "truth_recall@1@2": 1,
        "overlap@1": 2,
        "score_loss@1": 2,
        "kendall_tau": 2,
        "best_score_loss@2": 1,
        "gain_ratio@1@2": 1,
        "ndcg@1": 2,
        "rcs@1": 2,
        "best_cut@2": 1,
        "joint_click_recall@1": 2,
        "joint_truth_recall@1@1": 2,
        "joint_kept_recall@1": 2,
    }
    assert cascade["random"]["click_recall@2"] == 0.5
    assert cascade["random"]["overlap@1"] == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_three_stages_are_each_judged_against_the_last() -> None:
    first, last = STAGES
    stages = [
        first.model_copy(update={"keep": 3}),
        first.model_copy(update={"name": "middle", "cuts": [], "keep": 2}),
        last,
    ]
    # The middle stage would have 3 1 4 2 of request one; of the first three it keeps 3 and 1.
    middle = np.array([logit(p) for p in (0.6, 0.1, 0.9, 0.3, 0.4, 0.2)], np.float32)
    three = predictions()
    three.logits["middle"] = {"click": middle}
    calibrators = IDENTITY | {"middle": {"click": Platt()}}
    truth = {"click": np.array([0.9, 0.1, 0.5, 0.6, 0.4, 0.3], np.float32)}
    evaluation = document_of(three, stages, LEVELS, calibrators, truth, "test")
    cascade = evaluation["cascade"]
    assert cascade["agree_recall@1@3"] == 1  # the first against the last, as with two stages
    assert cascade["truth_recall@1@3"] == 1
    assert cascade["joint_agree_recall@1@2"] == 0  # but the second is cut in the middle
    assert cascade["eligible"]["joint_agree_recall@1@2"] == 1
    assert cascade["random"]["joint_agree_recall@1@2"] == 0.5
    assert cascade["joint_truth_recall@1@1"] == 0.5  # left are 1 and 3, 5 and 6; the last has 1 and 6
    assert (
        list(cascade["stages"]) == list(evaluation["interval"]["cascade"]["stages"]) == ["prerank", "middle"]
    )
    by_stage = cascade["stages"]
    assert by_stage["prerank"]["agree_recall@1@3"] == 1
    assert by_stage["middle"]["agree_recall@1@2"] == 0  # 3 and 1 in its top 2 of all
    assert by_stage["middle"]["truth_recall@1@2"] == 1
    # among 1 and 3 both prefer what the last does: 1 by the first, 3 by the middle; of request two 6 and 5
    assert by_stage["prerank"]["rcs@1"] == 1
    assert by_stage["middle"]["rcs@1"] == 0
    for stage, figures in by_stage.items():
        names = [name for name in figures if name not in ("eligible", "random")]
        assert list(figures["eligible"]) == list(figures["random"]) == names
        assert list(evaluation["interval"]["cascade"]["stages"][stage]) == names
    json.dumps(evaluation, allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests": Requests(np.array([0, 3, 6]), np.array([7, 3]))}, r"its requests are others \(6 cand"),
        ({"logits": {"prerank": {"click": np.zeros(6)}}}, "has no 'rank.click' to compare .* prerank.click$"),
    ],
)
def test_a_reference_of_other_rows_or_stages_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        document_of(predictions(), STAGES, LEVELS, IDENTITY, {}, "test", reference=predictions(**changes))


def test_nothing_eligible_is_null() -> None:
    """Nothing shown, and no request with more candidates than the quotas."""
    stages = [STAGES[0].model_copy(update={"keep": 9}), STAGES[1].model_copy(update={"keep": 8})]
    unknown = np.full(6, -1, np.int8)
    dark = predictions(exposed=np.zeros(6, bool), labels={"click": unknown, "order": unknown})
    evaluation = document_of(dark, stages, LEVELS, IDENTITY, {}, "test")
    for stage in evaluation["stages"].values():
        for figures in stage["exposed"].values():
            assert figures["n"] == 0
            assert {figures[name] for name in POINT} == {None}
            assert set(figures["eligible"].values()) == {0}
            assert set(figures["random"].values()) == {None}
    assert evaluation["reliability"] == {"prerank": {"click": []}, "rank": {"click": [], "order": []}}
    tau = evaluation["cascade"].pop("kendall_tau")
    assert tau == pytest.approx(0.5)
    eligible = evaluation["cascade"].pop("eligible")
    assert {name for name, n in eligible.items() if n} == {"kendall_tau"}
    random = evaluation["cascade"].pop("random")
    assert random.pop("kendall_tau") == 0
    assert set(random.values()) == set(evaluation["cascade"].values()) == {None}
    intervals = evaluation["interval"]["cascade"]
    assert [name for name, interval in intervals.items() if interval is not None] == ["kendall_tau"]
    json.dumps(evaluation, allow_nan=False)


def test_one_stage_has_no_cascade_and_no_cuts_no_boundary() -> None:
    alone = [STAGES[1].model_copy(update={"cuts": []})]
    evaluation = document_of(predictions(), alone, LEVELS, IDENTITY, {}, "valid")
    assert evaluation["cascade"] is None
    assert evaluation["interval"]["cascade"] is None
    assert evaluation["stages"]["rank"]["candidates"]["click"] == {"auc": None, "cut_auc": None, "n": 0}


@pytest.fixture(scope="module")
def real(trained: Run) -> dict[str, Any]:
    return corank.evaluate(trained.folder).document


def test_document_of_a_trained_run_is_json_and_the_same_each_time(real: dict[str, Any], trained: Run) -> None:
    text = json.dumps(real, allow_nan=False)
    assert json.loads(text) == real
    assert json.dumps(corank.evaluate(trained.folder).document, allow_nan=False) == text
    assert corank.evaluate(trained.folder, "valid")["split"] == "valid"


def test_a_run_has_no_regret_of_itself(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_corank(
        capsys, "evaluate", trained.folder, "--reference", trained.folder, "--json", "--split", "valid"
    )
    assert (code, err) == (0, "")
    evaluation = json.loads(out)
    for stage in ("prerank", "rank"):
        assert evaluation["stages"][stage]["candidates"]["click"]["bias_regret"] == 0
        assert evaluation["interval"]["stages"][stage]["candidates"]["click"]["bias_regret"] == [0, 0]

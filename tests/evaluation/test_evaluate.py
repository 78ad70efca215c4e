"""The rows of an evaluation, figure by figure, on two small requests counted by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest

import corank
from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.evaluation.rows import Row, to_json
from corank.metrics.requests import Requests
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.predictions import IDENTITY, STAGES, logit, predictions, rows_of, values_of

ORDER = ["gauc", "gauc_user_day", "request_auc", "mrr", "ndcg@5", "ndcg@10", "hit@5", "hit@10"]
POINT = ["auc", *ORDER, "logloss", "logloss_calibrated", "pcoc", "pcoc_calibrated", "ece", "ece_calibrated"]


@pytest.fixture
def rows() -> dict[str, Row]:
    truth = {"click": np.array([0.9, 0.1, 0.5, 0.6, 0.4, 0.3], np.float32)}
    return rows_of(predictions(), truth=truth)


def test_figures_of_exposed_candidates(rows: dict[str, Row]) -> None:
    """Shown were the first, second and fifth: clicked .8, not clicked .6, clicked .3 (by the pre-ranker)."""
    prerank = values_of(rows, "prerank.exposed.click.")
    assert prerank["auc"] == 0.5  # .8 above .6, .3 below it
    assert prerank["gauc"] == 1  # user 7 alone has both classes
    assert prerank["logloss"] == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.3)) / 3)
    assert prerank["pcoc"] == pytest.approx((0.8 + 0.6 + 0.3) / 2)
    assert prerank["ece"] == pytest.approx((0.2 + 0.6 + 0.7) / 3)  # each a bin of its own
    assert rows["prerank.exposed.click.auc"]["n"] == 3
    rank = values_of(rows, "rank.exposed.click.")
    assert rank["auc"] == 0  # .6 and .4, both below .9
    assert rank["gauc"] == 0
    order = values_of(rows, "rank.exposed.order.")
    assert order["auc"] == 0  # ordered .3, not ordered .8
    assert rows["rank.exposed.order.auc"]["n"] == 2  # where it is known
    assert order["gauc"] is None


def test_figures_of_all_candidates(rows: dict[str, Row]) -> None:
    prerank = values_of(rows, "prerank.candidates.click.")
    # cut is the fourth, below all others; the ranker's cut the third, and the retrieved are not its own
    assert prerank["cut_auc"] == 1
    assert rows["rank.candidates.click.cut_auc"]["value"] == 1
    # Σ p_i (1 − p_j) [s_i > s_j] / Σ p_i (1 − p_j), own pairs half
    s, p = [0.8, 0.6, 0.4, 0.2, 0.3, 0.5], [0.9, 0.1, 0.5, 0.6, 0.4, 0.3]
    pairs = [(s[i], s[j], p[i] * (1 - p[j])) for i in range(6) for j in range(6)]
    right = sum(w * ((a > b) + 0.5 * (a == b)) for a, b, w in pairs)
    assert prerank["auc"] == pytest.approx(right / sum(w for *_, w in pairs))
    assert rows["prerank.candidates.click.auc"]["n"] == 6
    # no truth of orders
    assert rows["rank.candidates.order.auc"]["value"] is None


def test_figures_of_the_cascade(rows: dict[str, Row]) -> None:
    """Only the first request has more than two candidates. Pre-ranker's order 1 2 3 4, ranker's 2 4 1 3."""
    cut, cascade = values_of(rows, "prerank.cut."), values_of(rows, "cascade.")
    assert cut["click_recall@2"] == 1
    assert cut["agree_recall@1@2"] == 1  # the ranker's best is the pre-ranker's second
    assert cut["truth_recall@1@2"] == 1  # the truth's best is its first
    assert cut["best_cut@2"] == pytest.approx((0.2 + 0.7) / (0.6 + 0.9 + 0.2 + 0.7))  # by the ranker
    assert cut["overlap@1"] == 0.5  # request one: 1 against 2; request two: its second, by both
    counted = {name: rows[f"prerank.cut.{name}"]["n"] for name in cut}
    assert counted | {name: rows[f"cascade.{name}"]["n"] for name in cascade} == {
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
    assert rows["prerank.cut.click_recall@2"]["random"] == 0.5
    assert rows["prerank.cut.overlap@1"]["random"] == pytest.approx((1 / 4 + 1 / 2) / 2)


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
    rows = rows_of(three, stages, calibrators, truth)
    first_cut, middle_cut = values_of(rows, "prerank.cut."), values_of(rows, "middle.cut.")
    assert first_cut["agree_recall@1@3"] == 1  # the first against the last, as with two stages
    assert first_cut["truth_recall@1@3"] == 1
    joint = rows["cascade.joint_agree_recall@1@2"]
    assert joint["value"] == 0  # but the second is cut in the middle
    assert (joint["n"], joint["random"]) == (1, 0.5)
    # left are 1 and 3, 5 and 6; the last has 1 and 6
    assert rows["cascade.joint_truth_recall@1@1"]["value"] == 0.5
    assert middle_cut["agree_recall@1@2"] == 0  # 3 and 1 in its top 2 of all
    assert middle_cut["truth_recall@1@2"] == 1
    # among 1 and 3 both prefer what the last does: 1 by the first, 3 by the middle; of request two 6 and 5
    assert first_cut["rcs@1"] == 1
    assert middle_cut["rcs@1"] == 0
    to_json({"rows": [*rows.values()]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests": Requests(np.array([0, 3, 6]), np.array([7, 3]))}, r"its requests are others \(6 cand"),
        ({"logits": {"prerank": {"click": np.zeros(6)}}}, "has no 'rank.click' to compare .* prerank.click$"),
    ],
)
def test_a_reference_of_other_rows_or_stages_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows_of(predictions(), reference=predictions(**changes))


def test_nothing_eligible_is_null() -> None:
    """Nothing shown, and no request with more candidates than the quotas."""
    stages = [STAGES[0].model_copy(update={"keep": 9}), STAGES[1].model_copy(update={"keep": 8})]
    unknown = np.full(6, -1, np.int8)
    dark = predictions(exposed=np.zeros(6, bool), labels={"click": unknown, "order": unknown})
    rows = rows_of(dark, stages)
    exposed = {name: row for name, row in rows.items() if ".exposed." in name}
    assert {name.rpartition(".")[2] for name in exposed} == set(POINT)
    for row in exposed.values():
        assert (row["value"], row["random"], row["n"]) == (None, None, 0)
    assert not [name for name in rows if ".reliability." in name]
    tau = rows.pop("prerank.cut.kendall_tau")
    assert tau["value"] == pytest.approx(0.5)
    assert (tau["random"], tau["low"] is None) == (0, False)
    left = [row for name, row in rows.items() if name.startswith(("prerank.cut.", "cascade."))]
    assert {(row["value"], row["n"], row["random"], row["low"]) for row in left} == {(None, 0, None, None)}
    to_json({"rows": [*rows.values()]})


def test_one_stage_has_no_cascade_and_no_cuts_no_boundary() -> None:
    alone = [STAGES[1].model_copy(update={"cuts": []})]
    rows = rows_of(predictions(), alone)
    assert not [name for name in rows if name.startswith(("rank.cut.", "cascade."))]
    candidates = [rows[f"rank.candidates.click.{name}"] for name in ("auc", "cut_auc")]
    assert [(row["value"], row["n"]) for row in candidates] == [(None, 0), (None, 0)]


def test_the_table_of_a_trained_run_is_json_and_the_same_each_time(trained: Run) -> None:
    one = corank.evaluate(trained.folder)
    assert json.loads(one.to_json()) == one.document
    assert corank.evaluate(trained.folder).to_json() == one.to_json()
    assert one["run"]["split"] == "test" and set(one.frame()["split"]) == {"test"}
    assert one.frame().rows(named=True) == one["rows"]
    with pytest.raises(DataError, match=r"unknown figure 'rank.exposed.click.au'; did you mean"):
        one.row("rank.exposed.click.au")


def test_a_run_has_no_regret_of_itself(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_corank(
        capsys, "evaluate", trained.folder, "--reference", trained.folder, "--json", "--split", "valid"
    )
    assert (code, err) == (0, "")
    regrets = [row for row in json.loads(out)["rows"] if row["metric"] == "bias_regret"]
    assert [(row["stage"], row["value"], row["low"], row["high"]) for row in regrets] == [
        ("prerank", 0, 0, 0),
        ("rank", 0, 0, 0),
    ]


def test_later_outcomes_count_what_was_cut_too() -> None:
    """Of the first request's the second and fourth: the pre-ranker keeps the second, so does the cascade."""
    labels = predictions().labels | {"later": np.array([0, 1, -1, 1, 1, 0], np.int8)}
    rows = rows_of(predictions(labels=labels, later="later"))
    assert rows["prerank.cut.later_recall@2"]["value"] == 0.5
    assert rows["prerank.cut.later_recall@2"]["n"] == 1
    assert rows["cascade.joint_later_recall@1"]["value"] == 0.25  # half, and of the second none
    assert "prerank.cut.later_recall@2" not in rows_of(predictions())

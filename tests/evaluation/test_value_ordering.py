"""Ordering by a value, from the config to the funnel: labels and columns, such as `click * bid`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from corank.core.calibration import Platt
from corank.core.errors import DataError, RequestError
from corank.evaluation.predictions import order_scores, stage_values
from corank.funnel.request import Request
from tests.support.cases import Case
from tests.support.configs import refused, shop
from tests.support.predictions import STAGES, predictions, rows_of, values_of
from tests.support.random_worlds import RICH

BID = np.array([1, 10, 1, 1, 2, 1], np.float32)
CALIBRATORS = {"click": Platt(2.0, 0.5), "order": Platt()}


def worth(value: str, bid: np.ndarray = BID) -> Any:
    return STAGES[1].model_copy(update={"value": value}), predictions(columns={"bid": bid})


# By hand: the ranker says .6 .9 .2 .7 of a request's clicks, and .4 .5 of another's


def test_a_value_is_of_calibrated_labels_and_columns() -> None:
    stage, outputs = worth("click * bid")
    clicks = [0.6, 0.9, 0.2, 0.7, 0.4, 0.5]
    expected = [b * expit(2 * np.log(p / (1 - p)) + 0.5) for p, b in zip(clicks, BID, strict=True)]
    assert stage_values(outputs, stage, CALIBRATORS).tolist() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(
        order_scores(outputs, stage, CALIBRATORS), stage_values(outputs, stage, CALIBRATORS)
    )
    stage, outputs = worth("bid - order")
    expected = [b - p for p, b in zip([0.8, 0.6, 0.4, 0.2, 0.3, 0.5], BID, strict=True)]
    assert stage_values(outputs, stage, CALIBRATORS).tolist() == pytest.approx(expected, rel=1e-6)


def test_a_value_that_is_no_finite_number_is_refused() -> None:
    stage, outputs = worth("click / bid", np.array([1, 1, 0, 1, 1, 1], np.float32))
    with pytest.raises(DataError, match=r"^stages.rank.value: 'click .* is inf for candidate 2 of the split"):
        stage_values(outputs, stage, CALIBRATORS)


def test_the_cascade_is_judged_by_the_value() -> None:
    truth = {"click": np.array([0.9, 0.1, 0.5, 0.6, 0.4, 0.3], np.float32)}
    stage, outputs = worth("click * bid")
    rows = rows_of(outputs, [STAGES[0], stage], truth=truth)
    cascade = values_of(rows, "prerank.cut.") | values_of(rows, "cascade.")
    # the last stage has .6 9 .2 .7, the truth .9 1 .5 .6; of the second request .8 .5, and .8 .3
    assert cascade["joint_truth_recall@1@1"] == 1  # 9 and 1, .8 and .8; by clicks alone it is 0
    assert cascade["overlap@1"] == 0
    assert cascade["score_loss@1"] == pytest.approx((1 - 0.6 / 9 + 1 - 0.5 / 0.8) / 2)
    assert cascade["kendall_tau"] == pytest.approx(((3 - 3) / 6 - 1) / 2)


# Columns of the log and of the items, packed, evaluated and served

VALUE = "click * bid + worth * buy"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A bid is logged with each candidate, a worth is the item's."""
    return Case.of(tmp_path_factory.mktemp("case"), RICH | {"value": VALUE})


def expected(case: Case, request: dict[str, Any]) -> np.ndarray:
    logits, calibrators = case.funnel.logits(Request.parse(request))["rank"], case.calibrators["rank"]
    click, buy = (calibrators[label].apply(logits[label].astype(np.float64)) for label in ("click", "buy"))
    items = case.items.rows_by_key("item_id", named=True, unique=True)
    bid = np.array([c["bid"] for c in request["candidates"]])
    owned = [c.get("worth", items.get(c["id"], {}).get("worth")) for c in request["candidates"]]
    return np.asarray(click * bid + np.array(owned) * buy)


@pytest.fixture
def wide(case: Case) -> dict[str, Any]:
    request = case.request("test", 0)
    bids = np.random.default_rng(3).lognormal(0, 1, 16).round(3).tolist()
    request["candidates"] = [{"id": n, "bid": bid} for n, bid in enumerate(bids)]
    return request | {"keep": {"prerank": 99, "rank": 99}}


@pytest.mark.slow
def test_the_funnel_orders_by_the_value_and_says_it(case: Case, wide: dict[str, Any]) -> None:
    answer, value = case.funnel.rank(Request.parse(wide)), expected(case, wide)
    order = np.argsort(-value, kind="stable")
    assert [item["id"] for item in answer["items"]] == order.tolist()
    assert [item["score"] for item in answer["items"]] == pytest.approx(value[order].tolist(), abs=1e-5)
    by_click = np.argsort(-case.funnel.logits(Request.parse(wide))["rank"]["click"], kind="stable")
    assert order.tolist() != by_click.tolist()


def test_a_candidate_without_a_number_is_named(case: Case, wide: dict[str, Any]) -> None:
    wide["candidates"] = [{"id": 1, "bid": 1.0}, {"id": 3}]
    message = "candidates: 3 has no number 'bid', by which candidates are ordered; received None"
    with pytest.raises(RequestError, match=f"^{message}"):
        case.funnel.rank(Request.parse(wide))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shop(tmp_path)


def test_a_name_that_is_neither_a_label_nor_a_column_is_refused(path: Path) -> None:
    known = "known names: bid, click, order (labels of the stage, and data.columns)"
    assert refused(path, "data.columns=[bid]", "stages.1.value=click * bidd") == (
        "stages.rank.value: unknown name 'bidd'; did you mean 'bid'? (labels of the stage, and data.columns)"
    )
    assert refused(path, "data.columns=[bid]", "stages.1.value=click * x").endswith(
        f"unknown name 'x'; {known}"
    )
    assert refused(path, "stages.1.value=abs(click)").startswith(
        "stages.rank.value: 'abs(click)' is not allowed"
    )
    assert refused(path, "data.columns=[bid]", "stages.1.value=bid").startswith(
        "stages.rank.value: 'bid' names none of the labels click, order"
    )
    assert refused(path, "data.columns=[click]") == (
        "data: columns: 'click' is a label, too; rename the label"
    )

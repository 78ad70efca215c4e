from functools import partial

import numpy as np
import pytest

from corank.analysis.comparison import join_figures
from corank.analysis.comparison_page import title_of
from corank.core.page import PageRule, PageSettings
from corank.core.settings import validate
from corank.evaluation.inputs import CascadeRows, Subject
from corank.evaluation.item_parts import part_of_candidates
from corank.evaluation.pages import fill_pages, page_inputs
from corank.evaluation.predict import predict_split
from corank.evaluation.table import cascade_rows, measure
from corank.funnel.page_stage import PageStage
from tests.support.cases import Case
from tests.support.random_worlds import PAGED
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(PAGED)


@pytest.fixture(scope="module")
def rows(case: Case) -> CascadeRows:
    predictions = predict_split(case.model, case.packed, "test")
    return cascade_rows(predictions, case.config.stages, case.calibrators, {})


def random_page(rng: np.random.Generator) -> PageSettings:
    """A page of random rules, over the features that the world's page reads."""

    def rule() -> PageRule:
        within = {} if rng.random() < 0.4 else {"within": int(rng.integers(1, 5))}
        match rng.integers(4):
            case 0:
                return PageRule(
                    at_most=int(rng.integers(1, 3)), of=str(rng.choice(["item_0", "item_2"])), **within
                )
            case 1:
                return PageRule(at_most=1, of="item_1", **within)
            case 2:
                return PageRule(at_least=1, of=str(rng.choice(["item_0", "item_1", "item_2"])), **within)
        of = str(rng.choice(["item_0", "item_1", "item_2"]))
        return PageRule(slot=int(rng.integers(1, 4)), of=of, never=bool(rng.random() < 0.5))

    method = str(rng.choice(["value", "mmr", "dpp"]))
    by = (
        {} if method == "value" else {"by": str(rng.choice(["prerank.vector", "item_0", "item_2", "item_3"]))}
    )
    rules = [rule() for _ in range(rng.integers(4))]
    page = {"name": "page", "keep": int(rng.integers(1, 5)), "method": method, "rules": rules}
    return validate(PageSettings, page | by, "page")


@pytest.mark.parametrize("most", [200, pytest.param(2000, marks=pytest.mark.thorough)])
def test_pages_of_packed_data_are_those_that_are_served(case: Case, rows: CascadeRows, most: int) -> None:
    """All requests of the split, under pages of random rules and similarities."""
    rng, requests, pages = np.random.default_rng(0), rows.predictions.requests, 0
    asked = [case.request("test", n) for n in range(len(requests.size))]
    part = partial(part_of_candidates, case.model, case.packed, "test", "prerank.vector")
    funnel = case.funnel.with_changes(1, "")
    while pages < most:
        page = random_page(rng)
        funnel._page, funnel._quotas = PageStage(page, funnel.schema), funnel._quotas | {"page": page.keep}
        offline = fill_pages(page, case.packed, "test", rows, part)
        online = funnel.rank_many(asked)
        for n, answer in enumerate(online):
            assert isinstance(answer, dict)
            first = int(requests.start[n])
            shown = offline.slot[first : first + requests.size[n]]
            ids = [one["id"] if isinstance(one, dict) else one for one in asked[n]["candidates"]]
            expected = [ids[at] for at in np.argsort(shown, kind="stable") if shown[at] >= 0]
            assert [item["id"] for item in answer["items"]] == expected, (page, n)
            pages += 1


def test_a_split_is_measured_with_its_pages(case: Case, rows: CascadeRows) -> None:
    page = case.config.page
    assert page is not None
    part = partial(part_of_candidates, case.model, case.packed, "test", "prerank.vector")

    pages = fill_pages(page, case.packed, "test", rows, part)
    inputs = page_inputs(page, case.packed, "test", rows, pages)
    figures = measure([Subject("", "", "page", inputs)])
    values = {figure.place[-1]: figure.value for figure in figures}
    assert {"value@4", "distance@4", "distinct@4", "entropy@4", "coverage@4", "gini@4", "broken@4"} <= {
        *values
    }
    coverage = values["coverage@4"]
    assert values["truth@4"] is None and coverage is not None and 0 < coverage <= 1
    assert {title_of(row) for row in join_figures(figures, figures)} == {"page"}

from functools import partial

import numpy as np
import pytest

from corank.analysis.comparison import join_figures
from corank.analysis.comparison_page import title_of
from corank.evaluation.inputs import CascadeRows, Subject
from corank.evaluation.item_parts import part_of_candidates
from corank.evaluation.pages import fill_pages, page_inputs
from corank.evaluation.predict import predict_split
from corank.evaluation.table import cascade_rows, measure
from tests.support.cases import Case
from tests.support.pages import both_pages, draw_page
from tests.support.random_worlds import PAGED
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(PAGED)


@pytest.fixture(scope="module")
def rows(case: Case) -> CascadeRows:
    predictions = predict_split(case.model, case.packed, "test")
    return cascade_rows(predictions, case.config.stages, case.calibrators, {})


@pytest.mark.parametrize("most", [200, pytest.param(2000, marks=pytest.mark.thorough)])
def test_pages_of_packed_data_are_those_that_are_served(case: Case, rows: CascadeRows, most: int) -> None:
    """All requests of the split, under pages of random rules and similarities."""
    rng, pages = np.random.default_rng(0), 0
    while pages < most:
        page = draw_page(rng)
        for n, (offline, online) in enumerate(both_pages(case, rows, page)):
            assert offline == online, (page, n)
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

"""Numbers as people read them."""

import pytest

from corank.core.formatting import format_figure, format_interval, format_metric


def test_a_metric_has_four_decimals() -> None:
    assert format_metric(0.25) == "0.2500"
    assert format_metric(None) == "-"


def test_an_interval_has_two_bounds() -> None:
    assert format_interval([-0.5, 0.25]) == "-0.5000 … 0.2500"
    assert format_interval(None) == ""


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ("same", "same"),
        (12, "12"),
        (1_234_567, "1,234,567"),
        (1234.5, "1,234"),
        (0.123456, "0.1235"),
        (2.0, "2"),
    ],
)
def test_a_figure_has_thousands_or_four_digits(figure: float | str, text: str) -> None:
    assert format_figure(figure) == text

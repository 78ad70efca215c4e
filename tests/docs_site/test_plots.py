"""Plots of tables of results."""

import re

import pytest

from docs_site.plots import Mark, draw, read_plots, ticks

PAGE = """
<!-- plot: gain; AUC -->
| arm | side | gain | AUC |
|---|---|---|---|
| [joint](a.md), `from: [b]` | | **+.019 [+.007, +.031]** | .7 |
| prior | item | −1,200.5 | |
| prior | query | 3 % [−12, 5] | 12 µs |
| none | | | what |
"""


def test_a_table_is_read_as_values_and_intervals() -> None:
    ((_, plot),) = read_plots(PAGE)
    assert plot.columns == ["gain", "AUC"]
    assert plot.rows == [
        ("joint, from: [b]", [Mark(0.019, 0.007, 0.031), Mark(0.7, 0.7, 0.7)]),
        ("prior, item", [Mark(-1200.5, -1200.5, -1200.5), None]),
        ("prior, query", [Mark(3, -12, 5), Mark(12, 12, 12)]),
    ]


def test_a_plot_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no column loss; it has arm, side, gain, AUC"):
        list(read_plots(PAGE.replace("plot: gain; AUC", "plot: loss")))
    with pytest.raises(ValueError, match="no numbers in side"):
        list(read_plots(PAGE.replace("plot: gain; AUC", "plot: side")))


def test_marks_are_in_proportion() -> None:
    ((_, plot),) = read_plots("<!-- plot: v -->\n| a | v |\n|---|---|\n| x | 0 |\n| y | 5 |\n| z | 10 |\n")
    x, y, z = (float(at) for at in re.findall(r'cx="([\d.]+)"', draw(plot)))
    assert z > x and y - x == pytest.approx(z - y, abs=0.2)


def test_ticks_cover_a_range_by_round_steps() -> None:
    assert ticks(0.861, 0.905) == pytest.approx([0.86, 0.87, 0.88, 0.89, 0.9, 0.91])
    assert ticks(-3, 12) == [-5, 0, 5, 10, 15]
    assert ticks(5, 5) == [5, 6]

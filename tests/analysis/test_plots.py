"""The computations of the plots."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from corank.analysis import plots
from corank.analysis import plots as drawing


def test_few_values_are_not_smoothed_and_many_by_a_window() -> None:
    assert plots.smooth(np.array([3.0, 1.0])).tolist() == [3, 1]
    smoothed = plots.smooth(np.arange(40.0) ** 2)
    assert smoothed[10] == pytest.approx(np.mean(np.arange(6, 15) ** 2))
    assert smoothed[0] == pytest.approx((0 + 1 + 4 + 9 + 16) / 5)


def test_places_are_counted_in_cells() -> None:
    """Two candidates that both stages place alike, and one pair that they swap."""
    figure = Figure()
    x, y = np.array([1, 2, 1, 2]), np.array([1, 2, 2, 1])
    plots.rank_heatmap(figure, [plots.RankPair(x, y, 1, 1, ("a", "b"))])
    (mesh,) = figure.axes[0].collections
    assert np.asarray(mesh.get_array()).tolist() == [[1, 1], [1, 1]]
    assert figure.axes[0].get_xlim() == (0.5, 2.5)


def test_densities_have_one_area_whatever_the_count() -> None:
    figure = Figure()
    odds = np.linspace(-3, 3, 100)
    few = (odds, np.ones(100)), (np.repeat(odds, 10), np.full(1000, 0.3))
    plots.distributions(figure, {"rank": dict(zip(("cut", "exposed"), few, strict=True))})
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch)]
    (values, edges, _), (others, *_) = (patch.get_data() for patch in patches)
    assert values == pytest.approx(others)
    assert values @ np.diff(edges) == pytest.approx(1)


def test_rates_without_a_positive_are_drawn_on_a_linear_scale() -> None:
    for rate, scale in ((0.0, "linear"), (0.1, "log")):
        figure = Figure()
        line = plots.Series(
            np.array([0.1, 0.2]), np.array([rate, 0.3]), np.array([0, 0.2]), np.array([0.2, 0.4])
        )
        plots.plot_reliability(figure, {"raw": {"rank": line}})
        assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == scale


def test_dots_stand_where_their_values_are() -> None:
    figure = Figure()
    rows = {"sure": (1.0, 0.5, 1.5), "not": (0.2, -0.5, 0.5), "alone": (-1.0, None, None)}
    plots.intervals(figure, {"recall": rows, "auc": rows})
    left, _ = figure.axes
    drawn = [line for line in left.lines[1:] if line.get_marker() == "o"]
    dots = [(np.ravel(line.get_xdata()).tolist(), np.ravel(line.get_ydata()).tolist()) for line in drawn]
    assert dots == [([1], [0]), ([0.2], [1]), ([-1], [2])]
    assert [line.get_color() for line in drawn] == [drawing.COLOURS[0], drawing.FAINT, drawing.FAINT]
    assert [label.get_text() for label in left.get_yticklabels()] == list(rows)
    assert len(left.lines) == 1 + 2 + 2 + 1


def test_titles_of_small_plots_do_not_collide_and_flat_lines_are_flat() -> None:
    figure = Figure(figsize=(drawing.WIDTH, 2.6), layout="constrained")
    line = plots.Series(np.arange(3.0), np.array([5000.0001, 5000.0002, 5000.0001]))
    names = ["prerank.exposed.long_view.pcoc_calibrated", "a" * 60, "one, two, and three words of a title"]
    plots.small_plots(figure, {name: {"": line} for name in names}, "step", markers=True)
    figure.draw_without_rendering()
    assert [axes.get_title().replace("\n", "") for axes in figure.axes] == names
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert high - low == pytest.approx(500) and low < 5000 < high
        assert axes.yaxis.get_offset_text().get_text() == ""

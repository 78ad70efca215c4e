"""Settings of a page are searched by its figures, without a training for each."""

from pathlib import Path
from typing import Any

import pytest

import corank
from corank.analysis.experiments.figures import Objective
from corank.analysis.experiments.space import page_space
from corank.core.errors import ConfigError
from corank.training.config.config_file import read
from corank.training.run import Run

pytestmark = pytest.mark.slow

PAGE = "stages.2={name: page, model: page, keep: 3, method: dpp, by: prerank.vector, strength: 0.6}"
STRENGTH = "stages.2.strength"


@pytest.fixture(scope="module")
def searched(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a grid over strengths and its document."""
    out = tmp_path_factory.mktemp("searched")
    grid = {STRENGTH: [0.0, 0.3, 0.9]}
    return out, corank.tune(
        config, grid=grid, metric="page.distance@3", out=out, overrides=["stages.1.keep=8", PAGE]
    ).document


def test_trials_that_differ_in_the_page_share_a_training(
    searched: tuple[Path, dict[str, Any]],
) -> None:
    out, document = searched
    assert document["metric"] == "page.distance"
    first, *others = document["trials"]
    assert first["seconds"] > 0 and {one["seconds"] for one in others} == {0.0}
    distances = {one["values"][STRENGTH]: one["value"] for one in others}
    assert distances[0.0] < distances[0.3] < distances[0.9]
    best = document["trials"][document["best"] - 1]
    assert best["values"] == {STRENGTH: 0.9}
    page = Run.open(out / "run").config.page
    assert page is not None and page.strength == 0.9
    assert not (out / "trained").exists()


def test_figures_of_trials_are_those_of_their_runs(searched: tuple[Path, dict[str, Any]]) -> None:
    out, document = searched
    named = {
        row["name"]: row["value"]
        for row in document["rows"]
        if row["run"] == document["chosen"] and row["split"] == "valid" and row["base"] is None
    }
    evaluated = corank.evaluate(out / "run", "valid", bootstrap=False)
    for figure in ("distance", "value", "coverage"):
        assert evaluated.row(f"page.{figure}@3")["value"] == pytest.approx(named[f"page.{figure}"])
    with pytest.raises(ConfigError, match="what a choice must not know"):  # it may be shown
        Objective.of(Run.open(out / "run").config, "page.truth")


def test_the_weight_of_the_page_is_searched_by_default(config: Path) -> None:
    for method, key, ends in (("dpp", "strength", (0.0, 0.95)), ("mmr", "lambda", (0.05, 1.0))):
        page = PAGE.replace("dpp", method).replace("strength: 0.6", "rules: []")
        (parameter,) = page_space(read(config, ["stages.1.keep=8", page]))
        assert parameter.name == f"stages.2.{key}"
        assert (parameter.range.low, parameter.range.high) == ends
        assert parameter.range.holds(parameter.written)


@pytest.mark.parametrize(
    ("metric", "search", "page", "message"),
    [
        (None, [f"{STRENGTH}=0.1..0.9"], PAGE, "--search stages.2.strength: .* does not depend on the page"),
        ("page.truth", [], PAGE, "what a choice must not know"),
        ("page.clicks", [], PAGE, "the log has no propensities"),
        ("page.nothing", [], PAGE, "unknown metric 'page.nothing'"),
        ("page.value", [], "stages.2={name: page, model: page, keep: 3}", "orders by value alone"),
        ("page.value", [], "train.epochs=1", "unknown metric 'page.value'"),
    ],
)
def test_what_a_search_of_pages_refuses(
    config: Path, tmp_path: Path, metric: str | None, search: list[str], page: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        corank.tune(
            config, 3, metric=metric, search=search, out=tmp_path, overrides=["stages.1.keep=8", page]
        )

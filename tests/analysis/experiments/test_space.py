"""Grids and spaces of a tuning: how they are read, what they make of a config, and what is refused."""

from pathlib import Path

import pytest

from corank.analysis.experiments.space import (
    Grid,
    Space,
    check_space,
    default_space,
    list_points,
    read_grid,
    read_space,
)
from corank.core.errors import ConfigError
from corank.training.config.config import Config
from corank.training.config.config_file import read

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def config() -> Config:
    return read(EXAMPLES / "features.yaml")


def space_of(config: Config, *texts: str) -> Space:
    return read_space(config, EXAMPLES, texts)


def test_the_default_space_has_an_effect_and_holds_the_config_as_written(config: Config) -> None:
    space = Space.of(config, EXAMPLES, default_space(config))
    check_space(space)
    assert space.written is not None
    assert space.config_of(space.written) == space.config_of({})
    names = set(space.parameters)
    assert {
        "train.table.lr",
        "train.prerank.lr",
        "train.rank.lr",
        "stages.0.widths",
        "stages.1.dropout",
    } <= names
    assert "priors.smoothing" in names
    pointwise = [f"losses.{n}.weight" for n, loss in enumerate(config.losses) if loss.kind == "click"]
    assert names.isdisjoint(pointwise)


def test_a_file_and_options(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("train.rank.lr: 0.001..0.1 log\nstages.1.hidden:\n- [8]\n- [16, 8]\n", encoding="utf-8")
    space = space_of(config, "train.requests=64,128", str(file))
    assert space.plain() == {
        "train.requests": "64, 128",
        "train.rank.lr": "0.001..0.1 log",
        "stages.1.hidden": "[8], [16, 8]",
    }
    trial = space.config_of({"train.rank.lr": 0.01, "stages.1.hidden": [8]})
    assert (trial.train.stages["rank"].lr, trial.stages[1].hidden) == (0.01, [8])  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"space.yaml: train.rank.lr: given twice"):
        space_of(config, "train.rank.lr=0.1..1", str(file))
    file.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected keys with ranges"):
        space_of(config, str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.rank.lr", "expected KEY=RANGE"),
        ("train.rnk.lr=0.1..0.2", "unknown key 'rnk'"),
        ("train.seed=1..5", "seeds are those"),
    ],
)
def test_what_cannot_be_searched(config: Config, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(space_of(config, text))


def test_a_grid_is_the_product_without_the_config_as_written(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        "features.tab_hour: [null]\ntrain.requests: [64, 128]\nstages.1.hidden: [[8], [4, 2]]\n",
        encoding="utf-8",
    )
    space = read_grid(config, EXAMPLES, file)
    points = list_points(space)
    assert len(points) == 4
    assert points[1] == {"features.tab_hour": None, "train.requests": 64, "stages.1.hidden": [4, 2]}
    trial = space.config_of(points[1])
    assert "tab_hour" in config.features and "tab_hour" not in trial.features
    assert (trial.train.requests, trial.stages[1].hidden) == (64, [4, 2])  # type: ignore[attr-defined]
    hidden = config.stages[1].hidden  # type: ignore[attr-defined]
    written = read_grid(config, EXAMPLES, {"stages.1.hidden": [[8], hidden], "stages.1.dropout": [0.5]})
    assert written.written is None
    written = read_grid(config, EXAMPLES, {"stages.1.hidden": [[8], hidden]})
    assert list_points(written) == [{"stages.1.hidden": [8]}]
    together = {"stages.0.keep": [400], "stages.1.keep": [300]}
    assert len(list_points(read_grid(config, EXAMPLES, together))) == 1


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, r"--grid: expected keys with lists of values, such as train.rank.lr: \[0.001, 0.003\]"),
        ({"train.rank.lr": 0.1}, "--grid: train.rank.lr: expected keys with lists of values"),
        ({"train.rank.lr": []}, "--grid: train.rank.lr: expected 1 or more values, each once; received"),
        ({"train.rank.lr": [1, 1]}, r"expected 1 or more values, each once; received \[1, 1\]"),
        ({"train.rnk.lr": [0.1]}, "--grid: train.rnk.lr=0.1: train: unknown key 'rnk'; did you mean 'rank'"),
        (
            {"stages.9.hidden": [[8]]},
            r"--grid: stages.9.hidden=\[8\]: stages.9.hidden: the config has no such place",
        ),
        (
            {"train.epochs": [2]},
            "--grid: all of it is the config as written",
        ),
        ({"train.seed": [1, 2]}, "--grid: train.seed: seeds are those of `corank experiment --seeds`"),
        ({"data.log": ["other.parquet"]}, "changes the rows that arms are compared on"),
        ({"train.requests": [*range(1, 300)]}, "299 combinations, more than 200"),
        (
            {"stages.0.keep": [40, 60], "stages.1.keep": [10, 50]},
            r"--grid: stages.0.keep=40, stages.1.keep=50: stages",
        ),
    ],
)
def test_grids_that_are_refused(config: Config, grid: Grid, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_grid(config, EXAMPLES, grid)

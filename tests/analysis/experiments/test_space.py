"""Grids of a sweep and spaces of a tuning: how they are read, what they make of a config, and what is refused."""

from pathlib import Path

import pytest

from corank.analysis.experiments.space import (
    Space,
    build_grid,
    check_space,
    default_space,
    parse_grid,
    read_space,
)
from corank.core.errors import ConfigError
from corank.training.config.config import Config
from corank.training.config.config_file import read

EXAMPLES = Path(__file__).parents[3] / "examples"
SHOP = EXAMPLES / "shop.yaml"


def test_arms_are_the_product_and_the_config_as_written() -> None:
    grid = build_grid(
        SHOP, ["train.epochs=2"], {"train.rank.lr": [0.001, 0.002], "train.requests": [64, 128]}
    )
    assert [arm.name for arm in grid.arms[:2]] == ["as written", "train.rank.lr=0.001, train.requests=64"]
    assert len(grid.arms) == 5
    last = grid.arms[-1]
    assert last.changes == {"train.rank.lr": 0.002, "train.requests": 128}
    assert (last.config.train.stages["rank"].lr, last.config.train.requests) == (0.002, 128)
    assert all(arm.config.train.epochs == 2 for arm in grid.arms)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "none given; write --grid KEY=VALUE,VALUE"),
        (["train.rank.lr"], r"--grid train.rank.lr: expected a.b=value,value"),
        (["train.rnk.lr=0.1"], r"--grid train.rnk.lr=0.1: .*unknown key 'rnk'; did you mean 'rank'"),
        (["train.seed=1,2"], "seeds are those of --seeds"),
        (["data.log=other.parquet"], "changes the rows that arms are compared on"),
        ([f"train.requests={','.join(map(str, range(1, 300)))}"], "299 arms, more than 200"),
    ],
)
def test_what_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_grid(SHOP, [], parse_grid(texts))


@pytest.fixture(scope="module")
def config() -> Config:
    return read(EXAMPLES / "features.yaml")


def space_of(config: Config, *texts: str, file: Path | None = None) -> Space:
    return Space.of(config, EXAMPLES, read_space(config, texts, file))


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
    space = space_of(config, "train.requests=64,128", file=file)
    assert space.plain() == {
        "train.requests": "64, 128",
        "train.rank.lr": "0.001..0.1 log",
        "stages.1.hidden": "[8], [16, 8]",
    }
    trial = space.config_of({"train.rank.lr": 0.01, "stages.1.hidden": [8]})
    assert (trial.train.stages["rank"].lr, trial.stages[1].hidden) == (0.01, [8])  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"space.yaml: train.rank.lr: given by --search, too"):
        space_of(config, "train.rank.lr=0.1..1", file=file)
    file.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected keys with ranges"):
        space_of(config, file=file)


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

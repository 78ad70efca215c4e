"""Grids: parsing, the arms that they make, and what is refused."""

from pathlib import Path

import pytest

from corank.analysis.experiments.space import build_grid, parse_grid
from corank.core.errors import ConfigError

EXAMPLES = Path(__file__).parents[3] / "examples"
SHOP = EXAMPLES / "shop.yaml"


def test_values_are_yaml() -> None:
    texts = [
        "train.rank.lr=0.001,3e-3",
        "stages.1.hidden=[128, 64],[256]",
        "train.early_stop=null,{patience: 2}",
    ]
    assert parse_grid(texts) == {
        "train.rank.lr": [0.001, 0.003],
        "stages.1.hidden": [[128, 64], [256]],
        "train.early_stop": [None, {"patience": 2}],
    }


def test_arms_are_the_product_and_the_config_as_written() -> None:
    grid = build_grid(
        SHOP, ["train.epochs=2"], {"train.rank.lr": [0.001, 0.002], "train.requests": [64, 128]}
    )
    assert [arm.name for arm in grid.arms[:2]] == ["as written", "train.rank.lr=0.001, train.requests=64"]
    assert len(grid.arms) == 5
    last = grid.arms[-1]
    assert grid.changes[last.name] == {"train.rank.lr": 0.002, "train.requests": 128}
    assert (last.config.train.stages["rank"].lr, last.config.train.requests) == (0.002, 128)
    assert all(arm.config.train.epochs == 2 for arm in grid.arms)


def test_a_point_that_is_written_is_no_arm() -> None:
    grid = build_grid(SHOP, [], {"train.rank.lr": [build_grid_lr(), 0.5]})
    assert [arm.name for arm in grid.arms] == ["as written", "train.rank.lr=0.5"]
    assert grid.same == {f"train.rank.lr={build_grid_lr()}": "as written"}


def build_grid_lr() -> float:
    """The default learning rate of a stage."""
    from corank.training.config.settings import DenseOptimiser

    return DenseOptimiser().lr


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "none given; write --grid KEY=VALUE,VALUE"),
        (["train.rank.lr"], r"--grid train.rank.lr: expected a.b=value,value"),
        (["train.rank.lr="], "no values"),
        (["train.rank.lr=0.1,0.1"], "0.1 is given twice"),
        (["train.rank.lr=0.1", "train.rank.lr=0.2"], "given twice; write all its values in one"),
        (["train.rank.lr=[0.1"], "are no YAML values with commas between them"),
        (["train.rnk.lr=0.1"], r"--grid train.rnk.lr=0.1: .*unknown key 'rnk'; did you mean 'rank'"),
        (["stages.7.dropout=0.1"], "--grid stages.7.dropout=0.1: .*no such place"),
        (["stages.1.dropout=2"], "--grid stages.1.dropout=2: .*stages.1.dropout.*received 2"),
        (["name=one,other"], "changes nothing that is trained; a search cannot compare"),
        (["train.seed=1,2"], "seeds are those of --seeds"),
        (["stages.1.deadline_ms=5"], "changes the online funnel alone"),
        (["data.log=other.parquet"], "changes the rows that arms are compared on"),
        (["stages.1.dropout=0.0"], "all 1 arms are the config as written"),
        (["train.seed_=1"], "unknown key 'seed_'"),
        ([f"train.requests={','.join(map(str, range(1, 300)))}"], "299 arms, more than 200"),
    ],
)
def test_what_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_grid(SHOP, [], parse_grid(texts))


def test_a_fault_of_the_config_itself_is_told_as_such(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(SHOP.read_text(encoding="utf-8").replace("features:", "featurs:", 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.yaml: .*featurs") as raised:
        build_grid(config, [], {"train.rank.lr": [0.1]})
    assert "--grid" not in str(raised.value)

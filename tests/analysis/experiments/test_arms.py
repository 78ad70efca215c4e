"""The arms of the files that corank comes with: each is the config with one thing changed."""

from pathlib import Path
from typing import Any

import pytest

from corank.analysis.experiments.arms import Arm, ArmSet, identity
from corank.analysis.experiments.arms_file import STUDY, find_arms, read_arms
from corank.training.config.config import Config
from corank.training.config.config_file import plain, read

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def config() -> Config:
    """The example, with a teacher in place of the batch's items, and explicit learning rates."""
    teacher = (
        "{kind: distill, teacher: rank, student: prerank, on: [exposed, ranked, preranked], warm_up: 500}"
    )
    rates = [f"train.{stage}={{lr: 0.001}}" for stage in ("prerank", "rank")]
    return read(EXAMPLES / "shop.yaml", [f"losses.4={teacher}", *rates])


def arms_of(config: Config, name: str) -> ArmSet:
    """The arms of a file that corank comes with."""
    return read_arms(find_arms(Path(name))).build(config, name)


def named(arms: ArmSet) -> dict[str, Config]:
    return {arm.name: arm.config for arm in arms.arms}


NAMES = sorted(file.stem for file in STUDY.glob("*.yaml"))


def test_nine_files_fit_the_example(config: Config) -> None:
    assert len(NAMES) == 9
    for name in NAMES:
        arms = arms_of(config, name)
        assert arms.arms[0] == Arm("as written", config) and len(arms.arms) > 1 and arms.title
        assert not arms.refused or set(arms.refused) == {"towers, then towers"}


def test_a_log_without_levels_takes_the_catalogue() -> None:
    config = read(EXAMPLES / "exposure_only.yaml")
    assert plain(named(arms_of(config, "consistency"))["unexposed alone"])["losses"][-1]["from"] == [
        "catalogue"
    ]
    same, refused = arms_of(config, "architecture").same, arms_of(config, "towers").refused
    assert same["joint, shared embeddings"] == "as written"
    assert same["recipe: own samples, distilled"] == "as written"
    assert "none is a cross of query and item" in refused["no crosses, with distillation"]


def test_a_loss_of_all_stages_cannot_alternate(config: Config) -> None:
    cascade = [*plain(config)["losses"], {"kind": "cascade", "form": "lcron", "positive": ["exposed"]}]
    value: dict[str, Any] = plain(config) | {"losses": cascade}
    arms = arms_of(Config.model_validate(value), "architecture")
    assert "trains several stages at once" in arms.refused["alternating steps"]
    assert "as written" in named(arms)


def test_identity_is_of_all_but_the_name(config: Config) -> None:
    renamed = config.model_copy(update={"name": "other"})
    assert identity(renamed) == identity(config)
    assert identity(Arm("", config).at(2.0, 0)) != identity(config)
    written = read(EXAMPLES / "shop.yaml", ["train.prerank={lr: 0.001}", "train.rank={lr: 0.001}"])
    config = read(EXAMPLES / "shop.yaml")
    assert Arm("", written).identity == Arm("", config).identity  # defaults are what the example writes out

"""The arms of a study: each is the config with one thing changed."""

from pathlib import Path
from typing import Any

import pytest

from corank.analysis.experiments.arms import Arm, ArmSet, identity
from corank.analysis.experiments.question import QUESTIONS, build_arms, read_questions
from corank.core.errors import ConfigError
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


def arms_of(config: Config, number: int) -> ArmSet:
    """The arms of a question that corank comes with."""
    return build_arms(config, read_questions([number]))[str(number)]


def named(arms: ArmSet) -> dict[str, Config]:
    return {arm.name: arm.config for arm in arms.arms}


def kinds(config: Config, stage: str) -> list[str]:
    """The losses that a stage learns from."""
    return [loss.kind for loss in config.losses if loss.learner == stage]


def test_the_base_is_the_config_itself(config: Config) -> None:
    for arms in build_arms(config, read_questions(QUESTIONS)).values():
        assert arms.arms[0] == Arm("as written", config)
        assert not arms.refused or set(arms.refused) == {"towers, then towers"}


def test_architecture(config: Config) -> None:
    arms = arms_of(config, 1)
    configs = named(arms)
    assert arms.same == {"joint, shared embeddings": "as written"}
    assert {s.embeddings for s in configs["joint, own embeddings"].stages} == {"own"}
    assert configs["alternating steps"].train.mode == "alternate"
    assert configs["separate, the ranker first"].train.mode == "separate"
    distilled = configs["recipe: own samples, distilled"]
    assert kinds(distilled, "prerank") == ["click", "unexposed", "distill"]
    (unexposed,) = (
        plain(distilled)["losses"][n] for n, loss in enumerate(distilled.losses) if loss.kind == "unexposed"
    )
    assert unexposed["from"] == ["ranked"]
    heads = configs["recipe: one network, two heads"]
    assert kinds(heads, "prerank") == ["click"]
    assert kinds(heads, "rank") == ["click", "click"]


def test_a_log_without_levels_takes_the_catalogue() -> None:
    config = read(EXAMPLES / "exposure_only.yaml")
    assert plain(named(arms_of(config, 6))["unexposed alone"])["losses"][-1]["from"] == ["catalogue"]
    same, refused = arms_of(config, 1).same, arms_of(config, 8).refused
    assert same["joint, shared embeddings"] == "as written"
    assert same["recipe: own samples, distilled"] == "as written"
    assert "none is a cross of query and item" in refused["no crosses, with distillation"]


def test_a_loss_of_all_stages_cannot_alternate(config: Config) -> None:
    cascade = [*plain(config)["losses"], {"kind": "cascade", "form": "lcron", "positive": ["exposed"]}]
    value: dict[str, Any] = plain(config) | {"losses": cascade}
    arms = arms_of(Config.model_validate(value), 1)
    assert "trains several stages at once" in arms.refused["alternating steps"]
    assert "as written" in named(arms)


def test_identity_is_of_all_but_the_name(config: Config) -> None:
    renamed = config.model_copy(update={"name": "other"})
    assert identity(renamed) == identity(config)
    assert identity(Arm("", config).at(2.0, 0)) != identity(config)
    written = read(EXAMPLES / "shop.yaml", ["train.prerank={lr: 0.001}", "train.rank={lr: 0.001}"])
    config = read(EXAMPLES / "shop.yaml")
    assert Arm("", written).identity == Arm("", config).identity  # defaults are what the example writes out


def test_other_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match="found towers"):
        arms_of(read(EXAMPLES / "three_stages.yaml"), 1)

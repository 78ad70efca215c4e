"""Search spaces of a tuning: ranges as text, the default space, and what is refused."""

from pathlib import Path

import pytest

from corank.analysis.experiments.space import Range, Space, check_space, default_space, read_space
from corank.core.errors import ConfigError
from corank.training.config.config import Config
from corank.training.config.config_file import read

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def config() -> Config:
    return read(EXAMPLES / "features.yaml")


def space_of(config: Config, *texts: str, file: Path | None = None) -> Space:
    return Space.of(config, EXAMPLES, read_space(config, texts, file))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.001..0.1 log", Range(0.001, 0.1, log=True)),
        (".5..1", Range(0.5, 1)),
        ("1e-4..1e-2", Range(1e-4, 1e-2)),
        ("2..8", Range(2, 8, whole=True)),
        ("1,2", Range(choices=(1, 2))),
        ("[8],[16, 8]", Range(choices=([8], [16, 8]))),
        ("relu,gelu", Range(choices=("relu", "gelu"))),
    ],
)
def test_ranges(text: str, expected: Range) -> None:
    assert Range.parse(text, "") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1..0.01", "the lower end comes first"),
        ("0..1 log", "above 0 for log"),
        ("a..b", "expected LOW..HIGH"),
        ("true..false", "expected LOW..HIGH"),
        ("0.1", "two or more values"),
        ("1,1", "each once"),
        ("[1", "expected LOW..HIGH"),
        (".inf...nan", "expected LOW..HIGH|lower end|two or more"),
    ],
)
def test_what_is_no_range(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--search x: .*({message})"):
        Range.parse(text, "--search x")


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


def test_one_smoothing_is_that_of_all_priors(config: Config) -> None:
    space = Space.of(config, EXAMPLES, default_space(config))
    changed = space.config_of({"priors.smoothing": 30.0}).features
    assert {f.model_dump()["smoothing"] for f in changed.values() if f.kind == "prior"} == {30.0}


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
        ("stages.9.dropout=0.1..0.2", "no such place"),
        ("stages.1.dropout=0.1..2", "stages.1.dropout"),
        ("train.seed=1..5", "seeds are those"),
        ("packed=a,b", "changes nothing that is trained"),
    ],
)
def test_what_cannot_be_searched(config: Config, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(space_of(config, text))

"""Files of arms: what an arm changes, and what is refused, by file and key."""

from pathlib import Path

import pytest

from corank.analysis.experiments.arms import ArmSet
from corank.analysis.experiments.space import build_file
from corank.core.errors import ConfigError
from corank.training.config.config import Config
from corank.training.config.config_file import plain, read

EXAMPLES = Path(__file__).parents[3] / "examples"
CONFIG = EXAMPLES / "shop.yaml"


def built(folder: Path, text: str) -> ArmSet:
    """The arms of a file in a folder."""
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return build_file(CONFIG, ["train.epochs=1"], folder / "mine.yaml")


def config_of(folder: Path, arm: str) -> Config:
    """The config of the only arm of a file."""
    _, one = built(folder, f"arms: {{one: {arm}}}").arms
    assert one.name == "one"
    return one.config


def test_keys_are_set_after_the_changes(tmp_path: Path) -> None:
    changed = config_of(
        tmp_path,
        "{set: {train.mode: separate, train.rank.lr: 0.5, features.brand_seen: null}, change: own_tables}",
    )
    assert (changed.train.mode, changed.train.epochs, changed.train.stages["rank"].lr) == ("separate", 1, 0.5)
    assert {stage.embeddings for stage in changed.stages} == {"own"}
    assert read(CONFIG).features.keys() - changed.features.keys() == {"brand_seen"}


def test_losses_replace_the_config_s_or_join_them(tmp_path: Path) -> None:
    one = "{kind: levels, form: ranknet, stage: $first, on: $levels, weight: 2}"
    clicks = "{kind: click, stage: $first}, {kind: click, stage: $last}"
    replaced = plain(config_of(tmp_path, f"{{losses: [{clicks}, {one}]}}"))
    assert [loss["kind"] for loss in replaced["losses"]] == ["click", "click", "levels"]
    assert replaced["losses"][-1]["on"] == replaced["data"]["levels"]
    joined = plain(config_of(tmp_path, f"{{more_losses: [{one}]}}"))
    assert joined["losses"] == [*plain(read(CONFIG))["losses"], replaced["losses"][-1]]


def test_changes_have_arguments_and_an_order(tmp_path: Path) -> None:
    written = read(CONFIG)
    listed = config_of(
        tmp_path, "{change: [own_tables, {scale_lr: [$first, 2], scale_widths: 2}, {scale_widths: 2}]}"
    )
    assert listed.stages == [
        stage.scale_widths(4).model_copy(update={"embeddings": "own", "table_gradient": True})
        for stage in written.stages
    ]
    assert (
        listed.train.stages["prerank"].lr == 2 * plain(written)["train"].get("prerank", {"lr": 0.001})["lr"]
    )


REFUSED = {
    "arms: {}": "arms: none; give one or more",
    "title: Which?": "arms: required, but not given",
    "[a]": "arms: none; give one or more",
    "arms: {a: {set: {train.epochs: 2}}, a: {}}": "key 'a' is in line 1 already",
    "arm: {a: {set: {train.epochs: 2}}}": ": (top level): unknown key 'arm'; did you mean 'arms'?",
    "arms: {a: {sets: {train.epochs: 2}}}": "arms.a: unknown key 'sets'; did you mean 'set'?",
    "arms: {a: {}}": "arms.a: changes nothing; give set, losses, more_losses or change",
    "arms: {a: {change: own_table}}": "arms.a.change: unknown change 'own_table'; did you mean 'own_tables'?",
    "arms: {a: {change: scale_widths}}": "arms.a.change: scale_widths: missing a required argument: 'factor'",
    "arms: {a: {change: {own_tables: 3}}}": "arms.a.change: own_tables: too many positional arguments",
    "arms: {a: {change: 3}}": "arms.a.change: expected a name, or names with arguments; received 3",
    "arms: {a: {change: {structures: [1, 7]}}}": "arms.a: does not fit this config: list index out of range",
    "arms: {a: {change: {scale_lr: [rnk, 2]}}}": "arms.a: train: unknown key 'rnk'; did you mean 'rank'?",
    "arms: {a: {set: {stages.7.keep: 2}}}": "arms.a: stages.7.keep: the config has no such place",
    "arms: {a: {set: {train.epoch: 2}}}": "arms.a: train: unknown key 'epoch'; did you mean 'epochs'?",
    "arms: {a: {set: {data.request: x}}}": "arms.a.set: data.request: it changes the rows",
    "arms: {a: {more_losses: [{kind: clik}]}}": "arms.a: losses.5: ",
    "arms: {a: {more_losses: [{kind: click, stage: $frist}]}}": "arms.a: unknown $-name '$frist'; did you mean",
    "arms: {a: {set: {train.epochs: 1}}}": "arms.a: comes out the same as “as written”; drop one of the two",
    "arms: {a: {set: {train.epochs: 2}}, b: {set: {train.epochs: 2}}}": "arms.b: comes out the same as “a”; drop",
    "arms: {as written: {set: {train.epochs: 2}}}": "arms.as written: there is an arm “as written” already",
    "{optional: true, arms: {same: {set: {train.epochs: 1}}}}": "no arm is left for this config: “same”",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(tmp_path, text)
    said = str(caught.value)
    assert REFUSED[text] in said
    assert said.startswith(f"{tmp_path}/")
    assert "\n" not in said


def test_an_optional_arm_is_left_out_with_a_note(tmp_path: Path) -> None:
    arms = built(
        tmp_path,
        "{title: How long?, optional: true, arms: {two: {set: {train.epochs: 2}}, same: {set: {train.epochs: 1}}, "
        "strange: {change: {structures: [1, 7]}}}}",
    )
    assert [arm.name for arm in arms.arms] == ["as written", "two"] and arms.title == "How long?"
    assert [note.split("”")[0] for note in arms.notes] == ["“same", "“strange"]


def test_a_name_is_that_of_a_file_that_corank_comes_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(build_file(CONFIG, [], Path("consistency")).arms) == 4
    with pytest.raises(ConfigError, match=r"consistancy: no such file; corank .* architecture, consistency"):
        build_file(CONFIG, [], Path("consistancy"))
    monkeypatch.chdir(tmp_path)
    Path("consistency").write_text("arms: {two: {set: {train.epochs: 2}}}", encoding="utf-8")
    assert [arm.name for arm in build_file(CONFIG, [], Path("consistency")).arms] == ["as written", "two"]

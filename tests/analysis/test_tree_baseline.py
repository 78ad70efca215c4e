"""A run compared with boosted trees by one call: what is trained, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

import corank
from corank.analysis.experiments.trials import tree_baseline
from corank.core.errors import ConfigError, DataError
from corank.training.config.config import Config
from corank.training.config.config_file import from_plain, plain
from corank.training.run import Run

pytestmark = pytest.mark.slow


def altered(config: Config, **parts: object) -> Config:
    """A config with some parts replaced."""
    return from_plain(plain(config) | parts, "test", Path())


def test_trees_in_place_of_a_run_are_its_config_with_trees_and_clicks(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = corank.compare(trained.folder, "trees").document
    assert not list(tmp_path.iterdir())
    assert (document["a"], document["b"]) == (str(trained.folder), "trees")
    baseline = Run.create(tmp_path / "baseline", tree_baseline(trained), trained.base)
    assert [stage.model for stage in baseline.config.stages] == ["towers", "trees"]
    assert [loss.kind for loss in baseline.config.losses] == ["click"]
    ours, theirs = trained.config.stages[-1], baseline.config.stages[-1]
    assert (theirs.keep, theirs.cuts, theirs.labels, theirs.value) == (
        ours.keep,
        ours.cuts,
        ours.labels,
        ours.value,
    )
    corank.train(baseline.config, folder=tmp_path / "again", tables=tables(trained))
    expected = corank.compare(trained.folder, tmp_path / "again", on=trained.folder).document
    assert document["stages"] == expected["stages"] and document["cascade"] == expected["cascade"]
    with pytest.raises(DataError, match="--on is of two runs"):
        corank.compare(trained.folder, "trees", on=trained.folder)


def tables(run: Run) -> dict[str, str]:
    """The tables of a run's config, by key of `data`, from the root."""
    data = run.config.data
    sources = {"log": data.log, "items": data.items, "users": data.users, "truth": data.truth}
    return {name: str(run.base / path) for name, path in sources.items() if isinstance(path, str)}


def test_what_trees_cannot_use_goes(trained: Run) -> None:
    config = trained.config
    train = plain(config)["train"] | {
        "early_stop": {"metric": "rank.click.auc", "patience": 3},
        "rank": {"lr": 0.01},
    }
    export = {"precision": {"rank.item": "fp16"}}
    made = tree_baseline(replace(trained, config=altered(config, train=train, export=export)))
    stop = made.train.early_stop
    assert stop is not None and (stop.metric, stop.patience) == ("prerank.click.auc", 3)
    assert "rank" not in made.train.stages


def test_one_stage_alone_is_refused(trained: Run) -> None:
    config = trained.config
    alone = altered(
        config, stages=plain(config)["stages"][:1], losses=[{"kind": "click", "stage": "prerank"}]
    )
    with pytest.raises(ConfigError, match="it has one stage"):
        tree_baseline(replace(trained, config=alone))

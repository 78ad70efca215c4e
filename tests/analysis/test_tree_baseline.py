"""A run compared with boosted trees by one call: what is trained, and what is refused."""

from pathlib import Path

import pytest

import corank
from corank.analysis.experiments.tree_baseline import tree_baseline
from corank.core.errors import DataError
from corank.training.run import Run

pytestmark = pytest.mark.slow


def test_trees_in_place_of_a_run_are_its_config_with_trees_and_clicks(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = corank.compare(trained.folder, "trees").document
    assert not list(tmp_path.iterdir())
    assert (document["a"], document["b"]) == (str(trained.folder), "trees")
    baseline = Run.create(
        tmp_path / "baseline", tree_baseline(trained, document["trees"]["settings"]), trained.base
    )
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
    assert document["rows"] == expected["rows"]
    with pytest.raises(DataError, match="--on applies to two runs"):
        corank.compare(trained.folder, "trees", on=trained.folder)


def tables(run: Run) -> dict[str, str]:
    """The tables of a run's config, by key of `data`, from the root."""
    data = run.config.data
    sources = {"log": data.log, "items": data.items, "users": data.users, "truth": data.truth}
    return {name: str(run.base / path) for name, path in sources.items() if isinstance(path, str)}

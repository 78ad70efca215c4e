"""A run judged on another packing scores as with its own encoders, but for values that the packing does not know."""

import json
from pathlib import Path

import numpy as np
import pytest

import corank
from corank.analysis.run_evaluation import Evaluation, predict_run
from corank.api.results import ComparisonResult
from corank.core.errors import DataError
from corank.testing.worlds import trained_run
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.shared import finished_run, shared, simulated_world

pytestmark = pytest.mark.slow

PLAIN = "features.category_clicks=null"
"""Its scale is fitted on the rows of each packing."""
TEST = "test: 2026-03-09..2026-03-11"
FIRST = f"data.split={{train: 2026-03-01..2026-03-06, valid: 2026-03-06..2026-03-07, {TEST}}}"
LONGER = f"data.split={{train: 2026-03-01..2026-03-08, valid: 2026-03-08..2026-03-09, {TEST}}}"
LATER = f"data.split={{train: 2026-03-06..2026-03-08, valid: 2026-03-08..2026-03-09, {TEST}}}"


def _make(folder: Path) -> None:
    config = simulated_world() / "config.yaml"
    trained_run(config, folder / "run", FIRST, PLAIN, f"packed={folder / 'first'}")
    trained_run(config, folder / "less", FIRST, PLAIN, "features.city=null", f"packed={folder / 'first'}")
    trained_run(config, folder / "later", LATER, PLAIN, f"packed={folder / 'later packed'}",
                continue_from=folder / "run")  # fmt: skip
    corank.pack(config, [LONGER, PLAIN, f"packed={folder / 'longer'}"])


@pytest.fixture(scope="module")
def folder() -> Path:
    """A run, one without a feature, one of a later day that continued from it, and packed data of more days."""
    return shared("judged", _make)


def differing(one: Evaluation, other: Evaluation) -> set[int]:
    """The users whose candidates score otherwise."""
    requests, users = one.predictions.requests, set[int]()
    assert np.array_equal(requests.start, other.predictions.requests.start)
    user = np.repeat(requests.user, np.diff(requests.start))
    for stage, labels in one.predictions.logits.items():
        for label, logits in labels.items():
            apart = np.abs(logits - other.predictions.logits[stage][label]) > 1e-5
            users |= set(user[apart].tolist())
    return users


@pytest.mark.parametrize("name", ["run", "less"])
def test_a_packing_that_knows_all_its_values_gives_the_same_scores(folder: Path, name: str) -> None:
    """The packing knows values that the run does not, and may have a feature more."""
    run = Run.open(folder / name)
    own, judged = predict_run(run, "test"), predict_run(run, "test", on=folder / "longer")
    assert own.packed.codes != judged.packed.codes and judged.lost == {}
    assert own.packed.schema.features == judged.packed.schema.features
    assert not differing(own, judged)
    del judged
    assert not [path for path in folder.iterdir() if "view" in path.name]


def test_runs_of_two_days_are_compared_on_the_packing_of_the_second(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, runs = tmp_path / "page.html", (folder / "run", folder / "later")
    code, text, error = run_corank(
        capsys, "compare", *runs, "--page", page, "--margin", "0.5", "--margin", "auc=0"
    )
    assert code == 0, error
    assert f"Both judged on {folder / 'later packed'}" in text and "Margins: all 0.5, auc 0" in text
    assert "count as unknown there: a: user_id" in text
    assert "Both judged on" in page.read_text(encoding="utf-8")
    code, text, _ = run_corank(capsys, "compare", *runs, "--json", "--margin", "0.5")
    document = json.loads(text)
    assert document["on"] == str(folder / "later packed") and document["margins"] == {"all": 0.5}
    difference = ComparisonResult(document).row("rank.exposed.click.auc")
    assert (
        difference["verdict"] == "no difference shown"
        and difference["not_worse"]
        and difference["margin"] == 0.5
    )
    alone = corank.evaluate(folder / "run", on=folder / "later", bootstrap=False)
    assert difference["a"] == alone.row("rank.exposed.click.auc")["value"]
    assert alone["run"]["lost"] == document["lost"]["a"]
    forth, back = (corank.compare(a, b, on=folder / "longer") for a, b in (runs, runs[::-1]))
    ours, theirs = (comparison.row("cascade.joint_click_recall@6") for comparison in (forth, back))
    assert ours["difference"] == -theirs["difference"]
    assert forth["requests"] == document["requests"]


def test_a_run_that_cannot_be_judged_is_refused(folder: Path, tmp_path: Path) -> None:
    world = finished_run()
    with pytest.raises(
        DataError, match=r"later packed: lacks features of the run, .*: category_clicks; name packed"
    ):
        corank.evaluate(world.folder, on=folder / "later packed")
    config = simulated_world() / "config.yaml"
    corank.pack(config, [LATER, f"packed={tmp_path / 'scaled'}"])
    with pytest.raises(
        DataError, match=r"its scales, buckets or hashes are others .*: category_clicks; judge it on"
    ):
        corank.evaluate(world.folder, on=tmp_path / "scaled")
    with pytest.raises(DataError, match="no packed data here"):
        corank.evaluate(world.folder, on=tmp_path)
    with pytest.raises(DataError, match="--on judges all candidates of a split; leave out --by"):
        corank.evaluate(world.folder, on=tmp_path / "scaled", by="day")
    with pytest.raises(DataError, match=r"--margin: no metric 'aucs' was compared; there are auc, "):
        corank.compare(folder / "run", folder / "less", margin={"aucs": 0.1})
    with pytest.raises(DataError, match=r"--margin: expected .* METRIC=NUMBER, 0 or more; received '-1'"):
        corank.compare(folder / "run", folder / "less", margin=-1)

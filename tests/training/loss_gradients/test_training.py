"""Trainings that compare their losses' gradients, and those that project them."""

from pathlib import Path

import pytest
import torch

import corank
from corank.analysis.report.conflicts import GROUPS, PairConflict, conflict_parts, conflict_table
from corank.core.errors import ConfigError
from corank.training.checkpoints.checkpoint import load
from tests.support.configs import refused
from tests.support.interruptions import Interrupting, StoppedError, same
from tests.support.shared import small_world
from tests.support.simulated_runs import Silent, trained_run

SMALL = ("train.requests=24", "train.epochs=1")
PROJECTED = ("train.gradient_conflict={every: 3, project: true}",)
WORLD = "config.yaml"


@pytest.mark.slow
def test_comparing_gradients_changes_no_weight_and_is_reported(tmp_path: Path) -> None:
    config = small_world() / WORLD
    plain = trained_run(config, tmp_path / "plain", *SMALL)
    compared = trained_run(config, tmp_path / "compared", *SMALL, "train.gradient_conflict.every=4")
    ours, theirs = (load(run.folder / "model.safetensors").tensors for run in (plain, compared))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert len(corank.gradient_conflicts(plain.folder)) == 0
    found = corank.gradient_conflicts(compared.folder)
    pairs = {(row["weights"], row["loss"], row["other"]) for row in found.to_dicts()}
    assert ("tables", "rank.click", "prerank.distill") in pairs
    assert ("layers", "prerank.click", "prerank.unexposed") in pairs
    assert ("layers", "rank.click", "prerank.click") not in pairs, "two stages share no layer"
    for row in found.to_dicts():
        assert 0 < row["steps"] <= 14 // 4 + 1 and -1 <= row["cosine"] <= 1 and 0 <= row["below"] <= 1
    assert conflict_parts({"": plain}) == []
    assert "<td>prerank.click, prerank.unexposed</td>" in "".join(conflict_parts({"": compared}))
    assert conflict_parts({"a": plain, "b": plain}) == []


def test_two_runs_stand_side_by_side() -> None:
    """Each pair of losses once, whichever run names it first, and dashes where a run did not measure it."""
    ours = [
        PairConflict("tables", "rank.click", "prerank.click", 12, 0.5, 0.25),
        PairConflict("tables", "prerank.click", "prerank.distill", 11, 0.125, 0.5),
    ]
    theirs = [PairConflict("tables", "prerank.click", "rank.click", 9, -0.25, 1.0)]
    html = "".join(conflict_table({"a": ours, "b": theirs}))
    titles = [f"{group}: {what} {run}" for group in GROUPS for what in ("cosine", "below 0") for run in "ab"]
    assert all(f'<th scope="col">{title}</th>' in html for title in [*titles, "steps a", "steps b"])
    first = ["rank.click, prerank.click", "+0.500", "-0.250", "0.2500", "1.0000", *"––––", "12", "9"]
    second = ["prerank.click, prerank.distill", "+0.125", "–", "0.5000", *"–––––", "11", "–"]
    cells = [f"<td>{cell}</td>" for cell in [*first, *second]]
    assert "".join(cells) in html.replace("</tr>\n<tr>", "")


@pytest.mark.precision
@pytest.mark.slow
def test_a_broken_training_with_projection_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    config = small_world() / WORLD
    overrides = [*SMALL, *PROJECTED, "train.average=0.9", "train.precision=bf16", "train.checkpoint_every=2"]
    overrides += ["stages.0.dropout=0.2"]
    told = Silent()
    whole = corank.train(config, overrides, folder=tmp_path / "whole", callbacks=[told]).run
    plain = trained_run(config, tmp_path / "plain", *overrides[:2], *overrides[3:])
    assert not same(whole, plain)
    with pytest.raises(StoppedError):
        corank.train(
            config, overrides, folder=tmp_path / "broken", callbacks=[Interrupting(len(told.losses) // 2)]
        )
    resumed = trained_run(config, tmp_path / "broken", *overrides, resume=True)
    assert same(resumed, whole) and same(resumed, whole, "latest")
    found = [corank.gradient_conflicts(run.folder).to_dicts() for run in (whole, resumed)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "overrides",
    [
        ["stages.0.embeddings=own", "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]"],
        ["train.mode=alternate", "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]"],
        [
            "stages.0.table_gradient=false",
            "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]",
        ],
    ],
)
def test_refused_where_no_two_losses_learn_the_same_weights(overrides: list[str]) -> None:
    config = small_world() / WORLD
    message = refused(config, "train.gradient_conflict={}", *overrides)
    assert "train.gradient_conflict: no two losses learn the same weights in one step" in message
    with_two = [
        *overrides[:1],
        overrides[1].replace("}]", "}, {kind: unexposed, stage: prerank, from: [ranked]}]"),
    ]
    corank.config.read_config(config, ["train.gradient_conflict={}", *with_two])


def test_refused_by_several_processes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.gradient_conflict: one process alone .* received 2"):
        corank.train(small_world() / WORLD, PROJECTED, folder=tmp_path, workers=2)
    assert not list(tmp_path.iterdir())

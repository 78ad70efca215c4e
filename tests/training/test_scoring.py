"""Candidates that a config's networks score in a step."""

from pathlib import Path

import pytest

from corank.batches.sampling import CATALOGUE
from corank.core.errors import ConfigError
from corank.training.config.config_file import read
from corank.training.trainer import scored_populations
from tests.support.configs import TEXT

RETRIEVED, PRERANKED, RANKED, EXPOSED = range(4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


def test_a_ranker_scores_what_a_loss_reads_of_it(path: Path) -> None:
    """Retrieved candidates are the pre-ranker's negatives alone."""
    assert scored_populations(read(path)) == {"rank": {EXPOSED: None, RANKED: None}}
    everything = "losses.2.on=[preranked, ranked, exposed]", "losses.1.from=[preranked]"
    assert scored_populations(read(path, [*everything, "losses.1.weight=0", "losses.1.stage=rank"])) == {}


def test_what_a_later_stage_sees_is_scored_for_it(path: Path) -> None:
    light = "{name: light, model: mlp, keep: 50}"
    rank = "{name: rank, model: mlp, keep: 10, from_stages: [light.score, prerank.rank]}"
    stages = f"stages=[{{name: prerank, model: towers, keep: 100}}, {light}, {rank}]"
    clicks = (
        "losses=[{kind: click, stage: rank}, {kind: click, stage: light}, {kind: click, stage: prerank}, "
        "{kind: distill, teacher: rank, student: prerank, on: [exposed, ranked]}, "
        "{kind: unexposed, stage: prerank, from: [retrieved]}]"
    )
    populations = scored_populations(read(path, [stages, clicks]))
    assert populations == {name: {EXPOSED: None, RANKED: None} for name in ("light", "rank")}
    assert scored_populations(read(path, [stages.replace("light.score, ", ""), clicks])) == {
        "light": {EXPOSED: None},
        "rank": {EXPOSED: None, RANKED: None},
    }
    first = stages.replace("model: towers", "model: mlp")
    assert "prerank" not in scored_populations(read(path, [first, clicks])), "its ranks are of all"


def test_a_teacher_scores_drawn_candidates_and_no_others(path: Path) -> None:
    drawn = (
        "losses.2={kind: distill, teacher: rank, student: prerank, on: [catalogue, ranked], per_request: 5}"
    )
    assert scored_populations(read(path, [drawn])) == {"rank": {EXPOSED: None, RANKED: 5, CATALOGUE: 5}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["features.of_pair={side: cross, kind: id}"], "losses.2.on: 'catalogue' .* reads of of_pair; drop"),
        (
            [
                "features.of_pair={side: cross, kind: bucket, buckets: 4}",
                "stages=[{name: prerank, model: towers, keep: 100}, {name: mid, model: mlp, keep: 50}, "
                "{name: rank, model: mlp, keep: 10, from_stages: [mid.score]}]",
            ],
            "what 'rank' reads of of_pair",
        ),
        (
            [
                "data.scores={served: {column: score}}",
                "teachers=[{name: wise, scores: [served]}]",
                "losses.1={kind: click, stage: wise}",
                "losses.2.teacher=wise",
            ],
            "what 'wise' reads of served",
        ),
    ],
)
def test_a_teacher_that_would_have_to_guess_is_refused(path: Path, changes: list[str], message: str) -> None:
    drawn = "losses.2={kind: distill, teacher: rank, student: prerank, on: [catalogue], per_request: 5}"
    with pytest.raises(ConfigError, match=message):
        read(path, [drawn, *changes])

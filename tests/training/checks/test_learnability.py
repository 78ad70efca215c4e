"""Findings on what a config of a sound log leaves unlearnt."""

import re
from pathlib import Path

import corank

TREES = [
    "stages.1={model: trees, name: rank, cuts: [preranked], keep: 6, labels: [click], value: click}",
    "losses=[{kind: click, stage: prerank}]",
]


def test_trees_of_other_rows_teach_a_stage_that_no_loss_of_theirs_can_teach(small_world: Path) -> None:
    def advised(changes: list[str]) -> list[str]:
        found = corank.check(small_world / "config.yaml", changes).findings
        return [finding.what for finding in found if finding.where == "stages.prerank"]

    (said,) = advised(TREES)
    options = re.findall(r"--set '([^']+)'", said)
    assert len(options) == 2
    assert not advised([*TREES, *options]) and not advised([])

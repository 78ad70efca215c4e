"""Ranks that share each batch learn the lab's losses as one process does."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support import equal_ranks
from tests.support.equal_ranks import EVERYTHING, make_base, train_cases
from tests.support.ranks import fork_ranks

pytestmark = pytest.mark.slow

LAB: dict[str, Any] = EVERYTHING | {
    "losses": [
        *(one for one in EVERYTHING["losses"] if one["kind"] in ("click", "distill")),
        {"kind": "levels_bce", "stage": "rank"},
        *({"kind": kind, "positive": ["exposed"]} for kind in ("icc", "arf", "rankflow")),
        {"kind": "learnt_cascade", "form": "arf_v2", "positive": ["exposed"]},
    ],
    "train": {"requests": 3},
}


def train_lab(folder: Path) -> None:
    """Train the case as the rank of the environment."""
    equal_ranks.CASES = {"lab": LAB}
    train_cases(folder, folder, last=1)


def test_two_ranks_end_with_the_weights_of_one_process(tmp_path: Path) -> None:
    make_base(tmp_path)
    for world in (1, 2):
        ends = fork_ranks(train_lab, world, tmp_path)
        assert [code for code, _ in ends] == [0] * world, "\n".join(text for _, text in ends)
    alone, shared = (load_file(tmp_path / f"{world}.0.safetensors") for world in (1, 2))
    assert alone.keys() == shared.keys() and any("loss_parameter" in name for name in alone)
    for name, tensor in shared.items():
        assert (tensor - alone[name]).abs().max() < 1e-12, name
        assert not name.startswith("loss.") or tensor > 0, name

"""A run is hostile input: run.json, facts and tensors of its checkpoints, links and pipes."""

import json
import os
import pickle
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import corank
from corank.core.errors import BundleError, CheckpointError, StorageError
from corank.core.ragged import Ragged
from corank.training.checkpoints.checkpoint_files import load
from corank.training.run import Run
from corank.training.trainer import Trainer
from tests.support.hostile_runs import (
    HostilePackings,
    HostileRuns,
    hostile_run,
    huge_header,
    write_checkpoint,
    write_shard_bytes,
)
from tests.support.service import PROGRAM
from tests.support.shared import copy_run, derived

pytestmark = pytest.mark.slow

TABLE, LAYER = "model.tables.shared.weights.8", "model.stages.rank.heads.bias"
Tensors = dict[str, Tensor]
Spoil = Callable[[Tensors, dict[str, Any]], object]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run, which the test may spoil."""
    return copy_run(hostile_run(), tmp_path / "run")


def spoil(run: Run, name: str, change: Spoil) -> None:
    """Change tensors and facts of a checkpoint, whose digest then fits."""
    checkpoint = load(run.folder / name)
    tensors, facts = {key: t.clone() for key, t in checkpoint.tensors.items()}, dict(checkpoint.facts)
    change(tensors, facts)
    write_checkpoint(run.folder / name, tensors, json.dumps(facts))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def put(name: str, make: Callable[[Tensor], Tensor]) -> Spoil:
    """A change of one tensor."""
    return lambda tensors, facts: tensors.update({name: make(tensors[name])})


def drop(name: str) -> Spoil:
    return lambda tensors, facts: tensors.pop(name)


STATES: list[Spoil] = [
    drop(TABLE),
    drop(LAYER),
    put(TABLE, lambda t: t[:, :-1].contiguous()),
    put(f"average.{LAYER}", lambda t: t.repeat(3)),
    lambda tensors, facts: tensors.update({"optimiser.gone.99.step": torch.zeros(())}),
    lambda tensors, facts: facts["progress"].update(more=1),
    lambda tensors, facts: facts.pop("progress"),
]


@pytest.mark.parametrize("change", STATES)
def test_a_state_of_another_release_is_refused_by_its_path(run: Run, change: Spoil) -> None:
    spoil(run, "latest", change)
    message = refusal(Trainer(run, derived().packed).load)
    assert message.startswith(f"{run.folder}/latest: damaged, or of another release (")
    assert message.endswith("; train again")


def test_a_sound_run_passes_all_uses(run: Run, tmp_path: Path) -> None:
    runs = HostileRuns(run, derived().packed, tmp_path / "cases")
    shutil.copytree(run.folder, runs.case)
    (runs.case / "run.json").write_text(json.dumps(runs.plain))
    for use in (runs.evaluate, runs.carry, runs.judge, runs.export, runs.resume):
        use()


def test_a_run_json_that_is_none_or_too_large_is_refused(run: Run) -> None:
    for text in ("[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, "[]", "\xff", '{"config": 3}'):
        (run.folder / "run.json").write_text(text, encoding="latin-1")
        assert "run.json: damaged or no run" in refusal(lambda: Run.open(run.folder))
    os.truncate(run.folder / "run.json", 1 << 30)
    assert "1,073,741,824 bytes; at most 16,777,216 are read" in refusal(lambda: Run.open(run.folder))


def test_packed_data_whose_name_is_too_long_are_refused(run: Run) -> None:
    header = json.loads((run.folder / "run.json").read_text())
    header["config"]["packed"] = "a" * 5000
    (run.folder / "run.json").write_text(json.dumps(header))
    with pytest.raises(StorageError, match="no path: a name has more than 200 bytes"):
        Run.open(run.folder).packed()


def test_what_is_no_regular_file_is_not_opened(run: Run) -> None:
    """A pipe would let the reader wait for ever."""
    path = run.folder / "run.json"
    for make, reason in (
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "a link, or no folder"),
        (Path.mkdir, "not a regular file"),
    ):
        path.rename(path.with_name("before"))
        make(path)
        message = refusal(lambda: Run.open(run.folder))
        assert message.startswith(f"{path}: ") and reason in message
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.with_name("before").rename(path)


@pytest.mark.parametrize("kind", ["a pickle", "a header of a huge shape", "nothing"])
def test_a_command_ends_with_one_line(run: Run, tmp_path: Path, kind: str) -> None:
    content = {
        "a pickle": pickle.dumps({"w": [1.0]}),
        "a header of a huge shape": huge_header(random.Random(0)),
    }
    write_shard_bytes(run.checkpoint, content.get(kind, b""))
    command = [str(PROGRAM), "export", str(run.folder), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "model: damaged, or of another release (" in done.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("stages.prerank.scale", "stage 'prerank': its scale is inf: weights too large"),
        ("stages.prerank.item.layers.0.weight", "prerank.vector: that of "),
    ],
)
def test_weights_that_a_stage_cannot_compute_with_are_refused(
    run: Run, tmp_path: Path, name: str, told: str
) -> None:
    spoil(run, "model", put(name, lambda t: torch.full_like(t, 3e38)))
    with pytest.raises(BundleError) as error:
        corank.export(run.folder, tmp_path / "bundle")
    assert told in str(error.value) and not (tmp_path / "bundle").exists()


def test_mutated_runs_and_packings_are_used_or_refused_by_name(run: Run, tmp_path: Path) -> None:
    packed = derived().packed
    HostileRuns(run, packed, tmp_path / "runs").check(40, accepted=25, seed=5)
    HostilePackings(packed, run, tmp_path / "packings").check(60, accepted=30, seed=5)


def test_a_list_that_is_longer_than_all_values_is_refused_before_memory_is_taken() -> None:
    lists = Ragged(np.zeros(2, np.int64), np.array([1, 2**31 - 1], np.int32), np.arange(5, dtype=np.int32))
    with pytest.raises(IndexError, match="a list has 2,147,483,647 values; there are 5"):
        lists.flat()

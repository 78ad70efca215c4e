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
from corank.training.checkpoints.checkpoint import load
from corank.training.run import Run
from corank.training.warm_start_preparation import plan_warm_start
from tests.support.hostile_cases import FileWatch
from tests.support.hostile_packings import HostilePackings
from tests.support.hostile_runs import FACTS, HostileRuns, hostile_run, huge_header, write_checkpoint
from tests.support.service import PROGRAM
from tests.support.shared import copy_run, derived

pytestmark = pytest.mark.slow

TABLE, LAYER = "model.tables.shared.weights.8", "model.stages.rank.heads.bias"
Tensors = dict[str, Tensor]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run, which the test may spoil."""
    return copy_run(hostile_run(), tmp_path / "run")


def spoil(run: Run, name: str, change: Callable[[Tensors, dict[str, Any]], object]) -> None:
    """Change tensors and facts of a checkpoint, whose digest then fits."""
    path = run.folder / f"{name}.safetensors"
    checkpoint = load(path)
    tensors, facts = (
        {key: tensor.clone() for key, tensor in checkpoint.tensors.items()},
        dict(checkpoint.facts),
    )
    change(tensors, facts)
    write_checkpoint(path, tensors, json.dumps(facts))


def write_facts(run: Run, name: str, facts: str) -> None:
    path = run.folder / f"{name}.safetensors"
    write_checkpoint(path, {key: t.clone() for key, t in load(path).tensors.items()}, facts)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def put(name: str, make: Callable[[Tensor], Tensor]) -> Callable[[Tensors, dict[str, Any]], object]:
    """A change of one tensor."""
    return lambda tensors, facts: tensors.update({name: make(tensors[name])})


def fill(number: float) -> Callable[[Tensor], Tensor]:
    """Put a number in the place of a tensor's first."""

    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = number
        return tensor

    return change


OPTIMISER = "optimiser.rank.0"
LATEST: dict[str, tuple[Callable[[Tensors, dict[str, Any]], object], str]] = {
    "another shape of a table": (
        put(TABLE, lambda t: t[:, :-1].contiguous()),
        f"{TABLE}: expected the shape",
    ),
    "too few rows": (put(TABLE, lambda t: t[:-1].clone()), f"{TABLE}: expected the shape"),
    "integers": (
        put(TABLE, lambda t: t.to(torch.int32)),
        f"{TABLE}: expected torch.float32; found torch.int32",
    ),
    "half the precision": (put(LAYER, lambda t: t.half()), f"{LAYER}: expected torch.float32"),
    "a number by itself": (put(TABLE, lambda t: torch.zeros(())), f"{TABLE}: expected the shape"),
    "a missing table": (lambda tensors, facts: tensors.pop(TABLE), f"{TABLE} is missing"),
    "a missing layer": (lambda tensors, facts: tensors.pop(LAYER), f"{LAYER} is missing"),
    "a missing average": (
        lambda tensors, facts: tensors.pop(f"average.{LAYER}"),
        f"average.{LAYER} is missing",
    ),
    "one more": (
        lambda tensors, facts: tensors.update({"model.x": torch.zeros(1)}),
        "model.x is none of this model",
    ),
    "no first moment": (
        lambda tensors, facts: tensors.pop(f"{OPTIMISER}.exp_avg"),
        f"{OPTIMISER}.exp_avg is missing",
    ),
    "no step": (lambda tensors, facts: tensors.pop(f"{OPTIMISER}.step"), f"{OPTIMISER}.step is missing"),
    "another shape of a moment": (
        put(f"{OPTIMISER}.exp_avg", lambda t: t[:1].clone()),
        f"{OPTIMISER}.exp_avg: expected the shape",
    ),
    "steps": (put(f"{OPTIMISER}.step", lambda t: t.repeat(3)), f"{OPTIMISER}.step: expected the shape ()"),
    "a negative step": (put(f"{OPTIMISER}.step", lambda t: -t), f"{OPTIMISER}.step: holds -"),
    "a negative second moment": (
        put(f"{OPTIMISER}.exp_avg_sq", fill(-1)),
        f"{OPTIMISER}.exp_avg_sq: holds -1.0",
    ),
    "an infinite sum": (put("optimiser.table.0.sum", fill(float("inf"))), "optimiser.table.0.sum: holds inf"),
    "sums of rows and columns": (
        put("optimiser.table.0.sum", lambda t: t[:, None].repeat(1, 8)),
        "optimiser.table.0.sum: expected the shape",
    ),
    "nan": (put(TABLE, fill(float("nan"))), f"{TABLE}: holds nan"),
    "an infinite average": (put(f"average.{TABLE}", fill(float("-inf"))), f"average.{TABLE}: holds -inf"),
    "another optimiser": (
        lambda tensors, facts: tensors.update({"optimiser.rank.99.step": torch.zeros(())}),
        "optimiser.rank.99.step is of another optimiser",
    ),
    "a negative epoch": (lambda tensors, facts: facts["progress"].update(epoch=-1), "facts.progress.epoch: "),
    "a step of text": (lambda tensors, facts: facts["progress"].update(step="7"), "facts.progress.step: "),
    "a step beyond all": (
        lambda tensors, facts: facts["progress"].update(step=10**30),
        "facts.progress.step: ",
    ),
    "epochs without figures": (
        lambda tensors, facts: facts["progress"].update(epoch=5),
        "figures of 1 epochs, and",
    ),
    "progress that is a list": (lambda tensors, facts: facts.update(progress=[1]), "facts.progress: "),
    "no progress": (lambda tensors, facts: facts.pop("progress"), "holds no progress"),
    "no codes": (lambda tensors, facts: facts.pop("codes"), "holds no codes"),
    "codes of a list": (lambda tensors, facts: facts.update(codes=[1]), "facts.codes: "),
}


@pytest.mark.parametrize("kind", LATEST)
def test_a_spoilt_state_is_refused_by_file_and_name(run: Run, kind: str) -> None:
    """By `train --from`, and by `train --resume` with the same words."""
    change, reason = LATEST[kind]
    spoil(run, "latest", change)
    message = refusal(lambda: plan_warm_start(run.folder, run.config, derived().packed))
    assert message.startswith(f"{run.folder}/latest.safetensors: ") and reason in message


def test_the_weights_of_a_kept_epoch_are_checked(run: Run) -> None:
    def end_an_epoch_later(tensors: Tensors, facts: dict[str, Any]) -> None:
        progress = facts["progress"]
        progress |= {"epoch": 2, "best_epoch": 1, "worse": 1, "figures": progress["figures"] * 2}

    spoil(run, "latest", end_an_epoch_later)
    assert plan_warm_start(run.folder, run.config, derived().packed).source.kept is not None
    spoil(run, "best", put(LAYER.removeprefix("model."), fill(float("nan"))))
    message = refusal(lambda: plan_warm_start(run.folder, run.config, derived().packed))
    assert message.startswith(f"{run.folder}/best.safetensors: stages.rank.heads.bias: holds nan")


def test_a_sound_run_passes_all_uses(run: Run, tmp_path: Path) -> None:
    runs = HostileRuns(run, derived().packed, tmp_path / "cases")
    shutil.copytree(run.folder, runs.case)
    (runs.case / "run.json").write_text(json.dumps(runs.plain))
    for use in (runs.evaluate, runs.carry, runs.judge, runs.export, runs.resume):
        use()


@pytest.mark.parametrize("facts", FACTS)
@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_facts_that_are_none_are_refused(run: Run, tmp_path: Path, facts: str, verb: str) -> None:
    write_facts(run, "model", facts)
    message = refusal(
        lambda: (
            corank.evaluate(run.folder) if verb == "evaluate" else corank.export(run.folder, tmp_path / "b")
        )
    )
    assert message.startswith(f"{run.folder}/model.safetensors: ") and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, "[]", "\xff", '{"config": 3}']
)
def test_a_run_json_that_is_none_is_refused(run: Run, text: str) -> None:
    (run.folder / "run.json").write_text(text, encoding="latin-1")
    assert "run.json: damaged or no run" in refusal(lambda: Run.open(run.folder))


def test_a_run_json_that_is_too_large_is_not_read(run: Run) -> None:
    os.truncate(run.folder / "run.json", 1 << 30)
    assert "1,073,741,824 bytes; at most 16,777,216 are read" in refusal(lambda: Run.open(run.folder))


def test_packed_data_whose_name_is_too_long_are_refused(run: Run) -> None:
    header = json.loads((run.folder / "run.json").read_text())
    header["config"]["packed"] = "a" * 5000
    (run.folder / "run.json").write_text(json.dumps(header))
    with pytest.raises(StorageError, match="no path: a name has more than 200 bytes"):
        Run.open(run.folder).packed()


@pytest.mark.parametrize("name", ["run.json", "model.safetensors", "latest.safetensors", "best.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_regular_file_is_not_opened(run: Run, tmp_path: Path, name: str, kind: str) -> None:
    """A pipe would let the reader wait for ever."""
    path = run.folder / name
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/dev/zero")
        case _:
            path.mkdir()
    act: Callable[[], object] = lambda: Run.open(run.folder)  # noqa: E731
    if name != "run.json":
        act = lambda: load(path)  # noqa: E731
    reason = "a link, or no folder" if kind == "link" else "not a regular file"
    message = refusal(act)
    assert message.startswith(f"{path}: damaged or no ") and reason in message


@pytest.mark.parametrize("kind", ["a pickle", "a header of a huge shape", "nothing"])
def test_a_command_ends_with_one_line(run: Run, tmp_path: Path, kind: str) -> None:
    content = {
        "a pickle": pickle.dumps({"w": [1.0]}),
        "a header of a huge shape": huge_header(random.Random(0)),
    }
    (run.folder / "model.safetensors").write_bytes(content.get(kind, b""))
    command = [str(PROGRAM), "export", str(run.folder), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "model.safetensors: damaged or no checkpoint" in done.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "stages.prerank.scale",
            "stage 'prerank': its scale is inf; its weights are larger than it can compute with",
        ),
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


def test_mutated_runs_are_used_or_refused_by_name(run: Run, tmp_path: Path) -> None:
    outcome = HostileRuns(run, derived().packed, tmp_path / "cases").run(40, 5, FileWatch())
    assert (outcome.failed, outcome.hung, outcome.escaped) == (0, 0, 0), outcome.first
    assert outcome.cases == 40 and outcome.accepted < 25


def test_a_list_that_is_longer_than_all_values_is_refused_before_memory_is_taken() -> None:
    lists = Ragged(np.zeros(2, np.int64), np.array([1, 2**31 - 1], np.int32), np.arange(5, dtype=np.int32))
    with pytest.raises(IndexError, match="a list has 2,147,483,647 values; there are 5"):
        lists.flat()


def test_mutated_packings_are_read_or_refused_by_name(run: Run, tmp_path: Path) -> None:
    outcome = HostilePackings(derived().packed.folder, run, tmp_path / "cases").run(60, 5, FileWatch())
    assert (outcome.failed, outcome.hung, outcome.escaped) == (0, 0, 0), outcome.first
    assert outcome.cases == 60 and outcome.accepted < 30

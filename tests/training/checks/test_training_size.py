"""Size of a training: exact steps and tables, and a bound of memory that trainings keep."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import corank
from corank.testing.worlds import make_world
from corank.training.checks.training_size import TrainingSize
from corank.training.model_building import build_model
from corank.training.optimisers import Average, optimisers
from tests.support.command_line import run_corank
from tests.support.shared import small_world

CLICKS = "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]"
OWN = ("train.mode=separate", "stages.0.embeddings=own", CLICKS)


def size_of(*overrides: str) -> TrainingSize:
    """Of a training of the small world under changes."""
    return corank.check(small_world() / "config.yaml", overrides).size


def test_steps_are_those_of_the_training(tmp_path: Path) -> None:
    config, changes = small_world() / "config.yaml", ["train.requests=100", "train.epochs=2"]
    expected, run = size_of(*changes), corank.train(config, changes, folder=tmp_path / "run").run
    assert expected.epochs * expected.steps == run.trained(run.packed()).facts["step"]
    apart = size_of(*OWN, "train.requests=100", "train.epochs=2", "train.rank={epochs: 3}")
    assert (apart.epochs, apart.steps) == (5, expected.steps)
    both = size_of("train.mode=alternate", CLICKS, "train.requests=100", "train.epochs=2")
    assert (both.epochs, both.steps) == (2, expected.steps)


@pytest.mark.parametrize(
    "changes",
    [(), ("train.average=0.99",), ("train.table={optimiser: lazy_adam}", "stages.0.embeddings=own")],
)
def test_tables_are_those_of_the_training(changes: tuple[str, ...]) -> None:
    config = small_world() / "config.yaml"
    check, packed = corank.check(config, changes), corank.pack(config).packed
    model = build_model(check.config, packed)
    tables = list(model.tables.parameters())
    optimiser = optimisers(model, check.config.train.table, {})["table"]
    for table in tables:
        table.grad = table.new_zeros(table.shape).to_sparse(1)
    optimiser.step()  # makes its state
    states = [value for state in optimiser.state.values() for value in state.values()]
    held = [*tables, *(value for value in states if hasattr(value, "shape"))]
    if check.config.train.average:
        average = Average(model, check.config.train.average)
        held += [*model.tables.parameters(), *average.seen.values()]
    assert check.size.memory["tables"] == sum(tensor.numel() * tensor.element_size() for tensor in held)
    layers = sum(p.numel() for network in model.networks.values() for p in network.parameters())
    assert check.size.memory["layers"] >= 4 * 4 * layers
    assert check.size.memory["packed"] == packed.manifest.size


GROWTH = """
import sys
from pathlib import Path
import corank
from corank.engine.base import peak_memory

config, folder, *changes = sys.argv[1:]
corank.train(config, ["train.epochs=1"], folder=Path(folder) / "before")  # loads what every training loads
before = peak_memory()
corank.train(config, changes, folder=Path(folder) / "run")
print(peak_memory() - before)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("average", [(), ("train.average=0.99",)])
def test_a_training_grows_by_less_than_the_bound(tmp_path: Path, average: tuple[str, ...]) -> None:
    config = make_world(tmp_path / "world")
    changes = [
        "features.item_id={side: item, kind: id, dim: 64, hash: 500000}",
        "train.epochs=1",
        *average,
    ]
    corank.pack(config, changes)
    bound = corank.check(config, changes).size.memory
    command = [sys.executable, "-c", GROWTH, str(config), str(tmp_path), *changes]
    growth = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert growth <= sum(bound.values()) - bound["libraries"] <= 3 * growth


def test_check_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = small_world() / "config.yaml"
    command = ("check", config, "--set=train.requests=100", "--set=train.epochs=2")
    training = json.loads(run_corank(capsys, *command, "--json")[1])["training"]
    code, out, _ = run_corank(capsys, *command)
    printed, steps = " ".join(out.split()), training["steps_of_an_epoch"]
    parts = ["libraries", "tables", "copies", "layers", "batches", "packed"]
    assert code == 0 and list(training["memory"]) == parts
    assert f"training: {steps} steps an epoch, {2 * steps} in 2 epochs at most" in printed
    assert "memory: at most" in printed and "mapped)" in printed

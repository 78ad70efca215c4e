"""Forecast of a training: exact steps, the model's weights, seconds from the work, without timing anything."""

import json
from pathlib import Path

import pytest

import corank
from corank.training.checks.forecast import (
    Forecast,
    Machine,
    forecast_training,
)
from corank.training.model_building import build_model
from tests.support.command_line import run_corank
from tests.support.shared import small_world

MACHINE = Machine(operation=1e-6, multiply_add=1e-10, element=1e-9)
CLICKS = "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]"
OWN = ("train.mode=separate", "stages.0.embeddings=own", CLICKS)


def forecast(*overrides: str) -> Forecast:
    """Forecast of the small world under changes, by counts only."""
    return forecast_training(corank.check(small_world() / "config.yaml", overrides).profile, None, MACHINE)


def test_steps_are_those_of_the_training(tmp_path: Path) -> None:
    config, changes = small_world() / "config.yaml", ["train.requests=100", "train.epochs=2"]
    expected, run = forecast(*changes), corank.train(config, changes, folder=tmp_path / "run").run
    assert expected.epochs * expected.steps == run.trained(run.packed()).facts["step"]
    apart = forecast(*OWN, "train.requests=100", "train.epochs=2", "train.rank={epochs: 3}")
    assert (apart.epochs, apart.steps) == (5, expected.steps)
    both = forecast("train.mode=alternate", CLICKS, "train.requests=100", "train.epochs=2")
    assert (both.epochs, both.steps) == (2, expected.steps)


def test_weights_are_those_of_the_model() -> None:
    config = small_world() / "config.yaml"
    check, packed = corank.check(config), corank.pack(config).packed
    model = build_model(check.config, packed)
    tables = sum(p.numel() for p in model.tables.parameters())
    dense = sum(p.numel() for network in model.networks.values() for p in network.parameters())
    memory = check.forecast.memory  # with a number a row of the optimiser; weight, gradient and two of Adam
    rows = sum(len(p) for p in model.tables.parameters())
    assert memory["tables"] == 4 * (tables + rows)
    assert memory["networks"] == pytest.approx(16 * dense, rel=0.02)
    assert check.forecast.packed == packed.manifest.size
    guessed = forecast_training(check.profile, None, MACHINE)
    assert guessed.memory["tables"] == pytest.approx(memory["tables"], rel=0.25)
    assert guessed.packed == pytest.approx(check.forecast.packed, rel=0.5)


def test_check_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = small_world() / "config.yaml"
    command = ("check", config, "--set=train.requests=100", "--set=train.epochs=2")
    training = json.loads(run_corank(capsys, *command, "--json")[1])["training"]
    code, out, _ = run_corank(capsys, *command)
    printed, steps = " ".join(out.split()), training["steps_of_an_epoch"]
    assert code == 0 and set(training["memory"]) == {"framework", "tables", "networks", "batches"}
    assert f"training: {steps} steps an epoch, {2 * steps} in 2 epochs at most" in printed
    assert "memory: about" in printed and "of packed data, mapped" in printed

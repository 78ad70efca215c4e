"""Simulated worlds on which arms are compared: each arm is one training, whose result is kept."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from scipy.stats import t as student

from corank.core.files import write_text
from corank.core.settings import validate
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.datasets.feed.simulate import simulate_world
from corank.models.joint import JointModel
from corank.training.config.config import Config
from corank.training.config.config_file import plain, read
from corank.training.run import Run
from corank.training.train import train_run

Loss = dict[str, Any]
Figures = dict[str, float]
T = TypeVar("T")

SCORES = """\
  scores:
    truth: {column: score_truth, scale: probability}
    production: {column: score_rank}
    production_prerank: {column: score_prerank}
  split: {valid"""


@dataclass(frozen=True)
class Arena:
    """A packed world and the config that its arms vary."""

    folder: Path
    config: Config
    packed: PackedDataset

    def trained(
        self,
        name: str,
        stages: Sequence[Loss],
        losses: Sequence[Loss],
        settings: Loss,
        teachers: Sequence[Loss] = (),
    ) -> JointModel:
        """The model of one arm."""
        arm = {"stages": [*stages], "teachers": [*teachers], "losses": [*losses], "train": settings}
        config = validate(Config, plain(self.config) | arm, name)
        folder = self.folder / "runs" / name
        run = Run.create(folder, config, self.folder)
        train_run(run, self.packed)
        model, _ = run.model(self.packed)
        shutil.rmtree(folder)
        return model


def world(
    folder: Path,
    preset: str,
    seed: int,
    requests: int,
    candidates: int,
    interests: int = 1,
    features: Mapping[str, Any] | None = None,
) -> Arena:
    """A simulated world, the truth joined to its log as a score, so that an oracle can learn from it.

    Args:
        folder: is emptied first.
        preset: of the world.
        seed: of the world.
        requests: how many.
        candidates: of each request.
        interests: tastes of a user.
        features: to be declared in addition to those of the simulated config.
    """
    sizes = {"requests": requests, "candidates": candidates, "interests": interests}
    simulate_world(folder, overwrite=True, preset=preset, seed=seed, **sizes)
    for log in (folder / "log").glob("*.parquet"):
        truth = pl.read_parquet(folder / "truth" / log.name)
        joined = pl.read_parquet(log).with_columns(score_truth=truth["click"])
        joined.write_parquet(log)
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8")
    assert "  split: {valid" in text
    path.write_text(text.replace("  split: {valid", SCORES), encoding="utf-8")
    return packed_arena(folder, read(path), features or {})


def packed_arena(folder: Path, config: Config, features: Mapping[str, Any]) -> Arena:
    """Pack a log with some features in addition to those of its config."""
    value = plain(config)
    config = validate(Config, value | {"features": value["features"] | dict(features)}, str(folder))
    packed = pack_log(config.data, config.declared, folder, folder / "packed" / config.name)
    return Arena(folder, config, packed)


def kept(path: Path, make: Callable[[], T]) -> T:
    """The stored result of `make`, or a new one: a long benchmark continues where it was stopped."""
    if path.exists():
        stored: T = json.loads(path.read_text(encoding="utf-8"))
        return stored
    figures = make()
    write_text(path, json.dumps(figures, indent=1))
    return figures


def spread(key: str, values: Sequence[float]) -> Figures:
    """Under `key` the mean over seeds and, of two or more, its 95 % interval by Student's t as `.low` and `.high`."""
    array = np.array(values)
    mean, n = float(array.mean()), len(array)
    if n == 1:
        return {key: mean}
    half = float(student.ppf(0.975, n - 1) * array.std(ddof=1) / n**0.5)
    return {key: mean, f"{key}.low": mean - half, f"{key}.high": mean + half}

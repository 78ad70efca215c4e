"""Small simulated worlds for tests, and how they are trained."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import corank
from corank.core.objects import PathOrUrl
from corank.datasets.feed.simulate import simulate_world
from corank.training.callbacks import TrainingEvaluation, TrainingLog
from corank.training.run import Run

NARROW = {
    "query: [512, 128, 64, 32]": "query: [16, 8]",
    "item: [512, 128, 64, 32]": "item: [16, 8]",
    "hidden: [128, 128, 128]": "hidden: [16, 8]",
    "requests: 256}": "requests: 64}",
}


class Silent(corank.Callback):
    """A callback that keeps what it receives."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.figures: list[dict[str, float | None]] = []

    def on_log(self, event: TrainingLog) -> None:
        self.losses.append(dict(event.losses))

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        self.figures.append(event.learnt)


LONG = {"valid: 2026-03-09, test: 2026-03-10": "valid: 2026-03-04, test: 2026-03-08"}
"""Seven days of ten to validate and test on, so that verdicts of a small world rest on enough requests."""


def make_world(
    out: Path,
    requests: int = 1200,
    candidates: int = 30,
    users: int = 40,
    items: int = 120,
    changes: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """The config of a packed world whose stages are small enough to train in about a second.

    `changes` are texts of the config, and what is written in their place.
    """
    simulate_world(out, requests=requests, candidates=candidates, users=users, items=items)
    config = out / "config.yaml"
    text = config.read_text(encoding="utf-8")
    for wide, narrow in (NARROW | dict(changes)).items():
        assert wide in text, f"the simulated config has no {wide}"
        text = text.replace(wide, narrow)
    config.write_text(text, encoding="utf-8")
    corank.pack(config)
    return config


def trained_run(config: Path, folder: PathOrUrl, *overrides: str, **options: Any) -> Run:
    """A finished run of `config` in `folder`."""
    return corank.train(config, overrides, folder=folder, **options).run

"""Small simulated worlds, packed, and runs of them."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from corank.api.runs import pack
from corank.api.training import train
from corank.core.objects import PathOrUrl
from corank.datasets.feed.simulate import simulate_world
from corank.training.run import Run

NARROW = {
    "query: [512, 128, 64, 32]": "query: [16, 8]",
    "item: [512, 128, 64, 32]": "item: [16, 8]",
    "hidden: [128, 128, 128]": "hidden: [16, 8]",
    "requests: 256}": "requests: 64}",
}
"""Texts of the simulated config, and what a small world has in their place."""


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
    pack(config)
    return config


def trained_run(config: Path, folder: PathOrUrl, *overrides: str, **options: Any) -> Run:
    """A finished run of `config` in `folder`."""
    return train(config, overrides, folder=folder, **options).run

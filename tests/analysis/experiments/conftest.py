"""A small world for the tests of searches."""

import shutil
from pathlib import Path

import pytest

from corank.testing.worlds import make_world
from tests.support.shared import shared
from tests.support.simulated_runs import LONG


@pytest.fixture(scope="session")
def small() -> Path:
    """The config of a world of 400 requests, each of 30 candidates; tests write elsewhere, or copy it."""
    return (
        shared("search", lambda folder: make_world(folder / "world", requests=400, changes=LONG))
        / "world"
        / "config.yaml"
    )


@pytest.fixture(scope="module")
def config(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a copy of the world, next to which a module's tests write."""
    return shutil.copytree(small.parent, tmp_path_factory.mktemp("copy") / "world") / small.name

"""A simulated world in RecFlow's layout, and what is imported from it."""

from pathlib import Path

import pytest

from corank.datasets.recflow import import_recflow
from corank.datasets.recflow_layout import simulate_recflow
from tests.support.recflow import SMALL


@pytest.fixture(scope="session")
def recflow_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the simulated files."""
    out = tmp_path_factory.mktemp("recflow")
    simulate_recflow(out, preset="strong", **SMALL)
    return out


@pytest.fixture(scope="session")
def imported(recflow_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the imported tables."""
    out = tmp_path_factory.mktemp("imported") / "out"
    import_recflow(recflow_world, out)
    return out

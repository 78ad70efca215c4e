"""One small world a session, packed, and one finished run of it; tests read them and write elsewhere."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from corank.training.run import Run
from tests.support.simulated_runs import make_world, trained_run

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.yaml, log/, truth/, items.parquet, users.parquet and packed/."""
    return make_world(tmp_path_factory.mktemp("world")).parent


@pytest.fixture(scope="session")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of `world`; it lies outside the world's folder."""
    return trained_run(world / "config.yaml", tmp_path_factory.mktemp("trained") / "run")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say on the last line what this machine could not test."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    if reasons:
        print("not tested here: " + "; ".join(f"{reason} ({n})" for reason, n in reasons.items()))

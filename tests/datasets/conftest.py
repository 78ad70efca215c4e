"""A simulated world in RecFlow's layout, and what is imported from it."""

from pathlib import Path

import polars as pl
import pytest

from corank.datasets.news.layouts import simulate_ebnerd, simulate_mind
from corank.datasets.news.simulate import simulate_news
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


NEWS: dict[str, int] = {"requests": 300, "users": 400, "items": 600, "candidates": 20}
"""A news world of a second."""


@pytest.fixture(scope="session")
def news_worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One news world in three layouts: folders `plain`, `mind` and `ebnerd`."""
    out = tmp_path_factory.mktemp("news worlds")
    simulate_news(out / "plain", False, **NEWS)
    simulate_mind(out / "mind", False, **NEWS)
    simulate_ebnerd(out / "ebnerd", False, **NEWS)
    return out


def plain_rows(worlds: Path) -> pl.DataFrame:
    """A row a candidate of the world, in order: user, time in seconds, history, item, click."""
    log = pl.read_parquet(worlds / "plain" / "log" / "*.parquet").explode("candidates", "clicked")
    users = pl.read_parquet(worlds / "plain" / "users.parquet").select("user_id", "history")
    log = log.join(users, "user_id", how="left", maintain_order="left")
    seconds = pl.col("time").dt.epoch("s")
    return log.select("user_id", seconds, "history", item_id="candidates", clicked="clicked")

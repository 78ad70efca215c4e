"""A label that is known everywhere: counted level by level, and asked about if no loss learns it."""

from pathlib import Path

import polars as pl
import pytest

import corank
from corank.datasets.feed.simulate import simulate_world


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    simulate_world(folder, organic=0.5, requests=200, candidates=40, users=40, items=120)
    orders = f"later={folder / 'organic' / '*.parquet'}:order"
    corank.join(str(folder / "log" / "*.parquet"), folder / "joined", [orders])
    return folder / "config.yaml"


def test_it_is_counted_level_by_level(config: Path) -> None:
    log = pl.read_parquet(config.parent / "joined" / "*.parquet")
    rows = [row for row in corank.check(config).outcomes if row["label"] == "later"]
    found = {
        level: sum(r["positives"] for r in rows if r["level"] == level) for level in log["level"].unique()
    }
    assert found == dict(log.group_by("level").agg(pl.col("later").sum().cast(pl.Int64)).rows())
    assert found["retrieved"] > 0


def test_a_warning_says_that_no_loss_learns_it(config: Path) -> None:
    def warned(*losses: str) -> bool:
        findings = corank.check(config, losses).findings
        return any(
            f.severity == "warning" and f.where == "later" and "kind: outcome" in f.what for f in findings
        )

    assert not warned()
    assert warned("losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]")

"""A stage that orders by clicks and by what users did later: `value: click + later`."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import corank


@pytest.mark.slow
def test_a_value_adds_the_probability_of_a_later_outcome(tmp_path: Path) -> None:
    world = tmp_path / "world"
    corank.simulate(world, requests=400, candidates=20, users=60, items=100, organic=1.0)
    orders = f"later={world / 'organic' / '*.parquet'}:order"
    corank.join(str(world / "log" / "*.parquet"), world / "joined", [orders], window="3d")
    own = "losses.5={kind: outcome, stage: rank, of: later, label: later}"
    head = ["stages.1.labels=[click, later]", "stages.1.value=click + later", own]
    run = corank.train(world / "config.yaml", [*head, "train.epochs=1"]).run
    corank.predict(run.folder, str(world / "joined" / "*.parquet"), tmp_path / "out")
    scored = pl.read_parquet(tmp_path / "out" / "*.parquet")
    both = scored["probability.rank.click"] + scored["probability.rank.later"]
    np.testing.assert_allclose(scored["value.rank"], both, rtol=1e-5)

"""The example of a feature store: what Feast serves online is what corank read offline, and as of each request."""

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank.datasets.feed.simulate import simulate_world

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("CORANK_FEAST", "")
"""A Python that has Feast, whose pins are not corank's."""
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="CORANK_FEAST names no Python with Feast"),
]
BEGIN = datetime(2026, 2, 1, tzinfo=UTC)
CHANGE, RECORDED = datetime(2026, 3, 4, tzinfo=UTC), datetime(2026, 3, 7, tzinfo=UTC)
"""A price changes, which is recorded three days later."""
ASK = """
import json, sys
from feast import FeatureStore
from feast_tables import with_user
store = FeatureStore(".")
requests = [with_user(store, json.loads(line)) for line in sys.stdin]
print(json.dumps(requests))
"""


def feast(folder: Path, *words: str, given: str = "") -> str:
    """Run a command of Feast's Python in the repository."""
    done = subprocess.run([PYTHON, *words], cwd=folder, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated shop whose users and items are in Feast; `tables` has them as corank reads them."""
    folder = tmp_path_factory.mktemp("feast")
    simulate_world(folder, requests=400, candidates=30, users=40, items=120)
    for name, source in (("users", "user_rows"), ("items", "item_rows")):
        rows = pl.read_parquet(folder / f"{name}.parquet").drop("published", strict=False)
        rows = rows.with_columns(event_timestamp=pl.lit(BEGIN), created=pl.lit(BEGIN))
        if name == "items":
            dearer = rows.with_columns(pl.col("price") * 2, pl.lit(CHANGE).alias("event_timestamp"))
            rows = pl.concat([rows, dearer.with_columns(pl.lit(RECORDED).alias("created"))])
        rows.write_parquet(folder / f"{source}.parquet")
    for file in (ROOT / "examples" / "feast").iterdir():
        shutil.copy(file, folder)
    feast(folder, "-m", "feast.cli.cli", "apply")
    feast(
        folder, "-m", "feast.cli.cli", "materialize", f"{BEGIN - timedelta(1):%FT%T}", "2026-03-20T00:00:00"
    )
    feast(folder, "feast_tables.py", ".", "tables")
    return folder


def test_online_features_are_the_offline_ones(shop: Path) -> None:
    tables = ["data.users=tables/users.parquet", "data.items=tables/items.parquet"]
    run = corank.train(shop / "config.yaml", [*tables, "train.epochs=1"], folder=shop / "run").run
    logged = [corank.request(run.folder, number=n) for n in range(20)]
    of_feast = {"age", "gender", "city", "activity"}
    bare = [{**one, "user": {k: v for k, v in one["user"].items() if k not in of_feast}} for one in logged]
    given = "\n".join(map(json.dumps, bare))
    online: list[dict[str, Any]] = json.loads(feast(shop, "-c", ASK, given=given))
    assert [one["user"] for one in online] == [one["user"] for one in logged]
    corank.export(run.folder, shop / "bundle")
    funnel = corank.Funnel.open(shop / "bundle")
    assert [funnel.rank(one) for one in online] == [funnel.rank(one) for one in logged]


def test_a_price_counts_once_it_was_recorded(shop: Path) -> None:
    tables = {"users": shop / "tables/users.parquet", "items": shop / "tables/items.parquet"}
    settings = {f"data.{name}": str(path) for name, path in tables.items()}
    packed = corank.pack(shop / "config.yaml", [f"{key}={value}" for key, value in settings.items()]).packed
    begins = packed.item_keys.filter(pl.col("item") == 7)["valid_from"].to_list()
    assert begins[1:] == [int(time.timestamp() * 1000) for time in (BEGIN, RECORDED)]

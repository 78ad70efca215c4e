"""The job of the examples that joins requests with clicks runs, and its rows become a file of the log."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from tests.support.configs import shop
from tests.support.following import following_log
from tests.support.kafka_broker import Broker
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow
JOB = Path(__file__).parents[2] / "examples" / "streaming" / "join_quix.py"
START, MINUTE = 1_772_532_000_000, 60_000


def interpreter() -> str:
    """A Python with Quix Streams, which wants older versions of what corank's tests install."""
    given = os.environ.get("CORANK_QUIX_PYTHON")
    if given is None and find_spec("quixstreams") is None:
        pytest.skip("CORANK_QUIX_PYTHON names no Python that has quixstreams")
    return given or sys.executable


@contextmanager
def joining(broker: Broker, folder: Path) -> Iterator[None]:
    command = [interpreter(), str(JOB), "--broker", broker.servers, "--minutes", "1", "--state", str(folder)]
    with (folder / "job.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_requests_and_clicks_become_files_of_the_log(broker: Broker, tmp_path: Path) -> None:
    for topic in ("requests", "clicks", "log"):
        broker.make_topic(topic)
    requests = [
        (f"r{n}", {"request_id": n, "user_id": 7, "time": START + n * MINUTE, "candidates": [
            {"item_id": item, "level": "exposed"} for item in (1, 2, 3)]})
        for n in range(30)
    ]  # fmt: skip
    clicks = [
        (f"r{n}", {"request_id": n, "item_id": 1 + n % 3, "time": START + n * MINUTE + 20_000})
        for n in range(0, 30, 2)
    ]
    folder = tmp_path / "log"
    folder.mkdir()
    shop(tmp_path).rename(tmp_path / "config.yaml")
    period, wait = timedelta(minutes=10), timedelta(minutes=1)
    with (
        joining(broker, tmp_path),
        following_log(broker.url("log"), folder, tmp_path / "config.yaml", period, wait) as one,
    ):
        broker.send("clicks", clicks, timed=True)
        broker.send("requests", requests, timed=True)
        one.until(lambda: len([*folder.glob("*.parquet")]) >= 2)
    rows = pl.read_parquet(folder / "*.parquet").sort("request_id", "item_id").head(30)
    assert rows["request_id"].to_list() == [n for n in range(10) for _ in range(3)]
    assert rows["item_id"].to_list() == [1, 2, 3] * 10
    clicked = {(click["request_id"], click["item_id"]) for _, click in clicks}
    for row in rows.iter_rows(named=True):
        assert row["is_click"] == ((row["request_id"], row["item_id"]) in clicked), json.dumps(
            row, default=str
        )

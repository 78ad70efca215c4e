"""Candidates of a topic, in periods of ten minutes: `corank daily` trains each, from the model before."""

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

import corank
from corank_continual.periods.history import DailyHistory
from tests.support.daily_world import write_daily_world
from tests.support.following import following_log
from tests.support.kafka_broker import Broker, to_arrow

pytestmark = pytest.mark.slow


def test_daily_learns_from_a_topic_by_periods_of_minutes(broker: Broker, tmp_path: Path) -> None:
    settings = write_daily_world(tmp_path / "world", 3, 24000)
    log, source = settings.parent / "log", broker.make_topic("minutes")
    rows = pl.concat([pl.read_parquet(path) for path in log.glob("*.parquet")]).sort("time", "request_id")
    zone = getattr(rows.schema["time"], "time_zone", None)
    begin = pl.lit("2026-03-03T20:00").str.to_datetime("%Y-%m-%dT%H:%M", time_zone=zone)
    before, after = rows.filter(pl.col("time") < begin), rows.filter(pl.col("time") >= begin)
    assert len(before) and len(after)
    for path in log.glob("*.parquet"):
        path.unlink()
    before.write_parquet(log / "before.parquet")
    document = json.loads(settings.read_text()) | {
        "first": "2026-03-03T20:00", "period": "10m", "holdout": "6m", "users": None, "keep": 2
    }  # fmt: skip
    settings.write_text(json.dumps(document))
    requests = after.filter(pl.col("time") < begin.dt.offset_by("33m"))
    broker.send("minutes", [to_arrow(part.to_arrow()) for part in requests.iter_slices(100)])
    with following_log(
        source, log, log.parent / "config.yaml", timedelta(minutes=10), timedelta(minutes=1)
    ) as one:
        one.until(lambda: len([*log.glob("follow-*.parquet")]) == 3)
    corank.daily(settings)
    records = DailyHistory(settings.parent / "daily").records
    names = ["2026-03-03T2000", "2026-03-03T2010", "2026-03-03T2020"]
    assert [(record.period, record.decision) for record in records] == [(name, "live") for name in names]
    state = corank.store_versions(f"lmdb:{settings.parent / 'store'}")
    assert [entry["version"] for entry in state if entry["live"]] == [records[-1].version]

"""RecFlow's daily files: read, and written by hand."""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from corank.datasets import recflow as importer
from corank.datasets.recflow_layout import COLUMNS

SMALL: dict[str, Any] = {"requests": 400, "candidates": 50, "users": 20, "items": 150}
CHINA = ZoneInfo("Asia/Shanghai")
DAYS = [date(2024, 1, 13) + timedelta(days=n) for n in range(10)]


def stage(world: Path, day: date, folder: str = "all_stage") -> pl.DataFrame:
    """A daily file, its columns spelt without spaces."""
    return pl.read_ipc(world / folder / f"{day}.feather").rename(str.strip)


def candidate(request: int, video: int, day: int = 13, **values: Any) -> dict[str, Any]:
    """A row of January, at noon in China; flags and labels are 0 unless given."""
    noon = round(datetime(2024, 1, day, 12, 34, tzinfo=CHINA).timestamp() * 1000)
    uploaded = round(datetime(2024, 1, 1, 23, 59, tzinfo=CHINA).timestamp())
    row = dict.fromkeys(COLUMNS, 0) | {
        "request_id": request,
        "request_timestamp": noon,
        "user_id": 7,
        "video_id": video,
        "author_id": 1000 + video,
        "upload_timestamp": uploaded,
        "duration": 9000,
    }
    return row | values


def levels(request: int, day: int = 13) -> list[dict[str, Any]]:
    """One candidate of each level of the protocol."""
    return [candidate(request, video, day, **{name: 1}) for video, name in enumerate(importer.TWO_STAGE)]


Release = dict[str, list[dict[str, Any]]]


def release() -> Release:
    return {f"2024-01-{day}": levels(day, day) for day in (13, 14, 15)}


def write(folder: Path, days: Release) -> Path:
    (folder / "all_stage").mkdir(parents=True)
    for day, rows in days.items():
        table = pl.DataFrame(rows, schema_overrides=dict.fromkeys(COLUMNS, pl.Int64))
        table.write_ipc(folder / "all_stage" / f"{day}.feather")
    return folder


def log_of(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "log/*.parquet")

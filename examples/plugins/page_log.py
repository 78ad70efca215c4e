"""An importer: a log of pages, one JSON object a line, as corank's tables and a config.

{"time": "2026-03-02T10:15:00", "user": 7, "tab": "home", "items": [{"id": 3, "topic": "news", "clicked": true}, …]}

corank --plugin page_log import pages pages.jsonl shop
"""

from datetime import datetime, timedelta
from pathlib import Path
from string import Template
from typing import ClassVar

import polars as pl
from pydantic import Field

from corank.core.errors import DataError
from corank.core.files import atomic_folder
from corank.core.reports import Report
from corank.datasets.importer import IMPORTERS, Importer

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "time": pl.String,
    "user": pl.Int64,
    "tab": pl.String,
    "items": pl.List(pl.Struct({"id": pl.Int64, "topic": pl.String, "clicked": pl.Boolean})),
}
CONFIG = Template("""\
name: pages

data:
  log: log.parquet
  items: items.parquet
  request: [request_id]
  user: user_id
  item: item_id
  time: time
  position: position
  labels:
    click: {column: is_click}
  split: {valid: $valid, test: $test}

features:
  user_id: {side: user, kind: id, min_count: 2}
  history: {side: user, kind: ids, of: item_id, event: click, last: 20, every: 1d}
  tab:     {side: context, kind: id}
  item_id: {side: item, kind: id, min_count: 2}
  topic:   {side: item, kind: id}

stages:
  - {name: prerank, model: towers, query: [64, 16], item: [64, 16], keep: 50}
  - {name: rank, model: mlp, hidden: [64, 32], keep: 10}

losses:
  - {kind: click, stage: rank}
  - {kind: click, stage: prerank}
  - {kind: distill, teacher: rank, student: prerank, on: [exposed]}
""")


@IMPORTERS.register("pages")
class PageLog(Importer):
    """Import a log of pages: JSON lines, a page of items a line."""

    source_help: ClassVar[str] = "The file of JSON lines."
    days: int = Field(1, ge=1, description="Days of the validation split, and of the test split.")

    def write(self, source: Path, out: Path, report: Report) -> None:
        try:
            pages = pl.read_ndjson(source, schema=SCHEMA)
            log = _log(pages)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{source}: no log of pages ({error}); write a JSON object with {', '.join(SCHEMA)} a line"
            ) from None
        last = log["time"].max()
        if not isinstance(last, datetime):
            raise DataError(f"{source}: holds no item; write pages with `items`")
        test = last.date() - timedelta(days=self.days - 1)
        items = log.group_by("item_id", maintain_order=True).agg(pl.col("topic").last())
        with atomic_folder(out) as folder:
            log.drop("topic").write_parquet(folder / "log.parquet")
            items.write_parquet(folder / "items.parquet")
            config = CONFIG.substitute(valid=test - timedelta(days=self.days), test=test)
            (folder / "config.yaml").write_text(config, encoding="utf-8")
        report(f"{len(pages):,} pages, {len(log):,} candidates, {len(items):,} items")


def _log(pages: pl.DataFrame) -> pl.DataFrame:
    """A row a candidate."""
    rows = pages.with_row_index("request_id").explode("items").unnest("items").drop_nulls(["user", "id"])
    return rows.select(
        "request_id",
        pl.col("user").alias("user_id"),
        pl.col("id").alias("item_id"),
        pl.col("time").str.to_datetime(),
        pl.col("tab"),
        pl.col("topic"),
        pl.col("clicked").fill_null(False).cast(pl.Int8).alias("is_click"),
        pl.int_range(pl.len()).over("request_id").alias("position"),
    )

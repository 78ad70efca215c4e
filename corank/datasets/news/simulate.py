"""`corank simulate --preset news`: the log of a news site whose truth is known, and a config that trains on it."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import polars as pl

from corank.core.files import write_text
from corank.core.settings import Settings, validate
from corank.datasets.feed.simulate import clear_folder
from corank.datasets.feed.world import DEVICES, FIRST_DAY, instants
from corank.datasets.news.readers import describe_reads
from corank.datasets.news.traffic import NewsBlock, NewsTraffic
from corank.datasets.news.world import DAYS, NewsWorld

VALID, TEST = (FIRST_DAY.date() + timedelta(days=DAYS - n) for n in (2, 1))
"""The days for validation and for the test."""

# config.yaml goes first, so that what follows does not look complete
_FILES = ("config.yaml", "items.parquet", "users.parquet", "log/part-*.parquet", "truth/part-*.parquet")
_PART = 16  # blocks of a file


class SimulatedNews(Settings):
    """The world that was written, and its counts of candidates, exposures and clicks."""

    world: NewsWorld
    candidates: int
    exposed: int
    clicks: int


def simulate_news(out: Path, overwrite: bool = False, **options: int) -> SimulatedNews:
    """Write `log/`, `truth/`, `items.parquet`, `users.parquet` and, last, `config.yaml` into `out`.

    The log has a row a request, with lists of candidates. A folder without config.yaml is an interrupted simulation.
    The same arguments give the same bytes.

    Args:
        out: a folder that is not there or empty.
        overwrite: whether it may hold a world, which is removed.
        options: fields of `NewsWorld`.

    Raises:
        ConfigError: an option is out of range.
        BusyError: another process writes into `out`.
        DataError: `out` is a file, or a folder with something in it and `overwrite` is not set.
    """
    world = validate(NewsWorld, options, "simulate")
    with clear_folder(out, overwrite, _FILES):
        traffic = NewsTraffic(world)
        candidates = clicks = offset = 0
        part: list[pl.DataFrame] = []
        truth: list[pl.DataFrame] = []
        for number, block in enumerate(traffic):
            part.append(list_requests(block, offset))
            truth.append(true_probabilities(block, offset))
            candidates, clicks = candidates + len(block.item), clicks + int(block.click.sum())
            offset += len(block)
            if len(part) == _PART or offset == world.requests:
                name = f"part-{number // _PART:05}.parquet"
                pl.concat(part).write_parquet(out / "log" / name)
                pl.concat(truth).write_parquet(out / "truth" / name)
                part, truth = [], []
        traffic.articles.table.write_parquet(out / "items.parquet")
        readers = traffic.readers.table.join(
            traffic.readers.history, "user_id", how="left", maintain_order="left"
        )
        read = describe_reads(readers, traffic.articles.table, "item_id", ["category", "subcategory"])
        read.write_parquet(out / "users.parquet")
        template = Template(Path(__file__).with_name("news.yaml").read_text(encoding="utf-8"))
        facts: Mapping[str, Any] = world.model_dump() | {"valid": VALID, "test": TEST}
        write_text(out / "config.yaml", template.substitute(facts))
    return SimulatedNews(world=world, candidates=candidates, exposed=candidates, clicks=clicks)


def list_requests(block: NewsBlock, offset: int) -> pl.DataFrame:
    """Make a row a request of a block, with its lists; requests are numbered from `offset`."""
    of = np.repeat(np.arange(len(block)), block.length)
    lists = (
        pl.DataFrame({"of": of, "candidates": block.item, "clicked": block.click.astype(np.int8)})
        .group_by("of", maintain_order=True)
        .agg("candidates", "clicked")
    )
    requests = pl.DataFrame(
        {
            "request_id": np.arange(offset, offset + len(block)),
            "user_id": block.user,
            "time": instants(block.time),
            "device": pl.Series(DEVICES).gather(block.device),
        }
    )
    return requests.hstack(lists.drop("of"))


def true_probabilities(block: NewsBlock, offset: int) -> pl.DataFrame:
    """Make a row a candidate of a block, with its click probability."""
    request = np.repeat(np.arange(offset, offset + len(block)), block.length)
    return pl.DataFrame({"request_id": request, "item_id": block.item, "click": block.truth})

"""`corank simulate --preset news`: the log of a news site whose truth is known, and a config that trains on it."""

from datetime import timedelta
from pathlib import Path
from string import Template

import numpy as np
import polars as pl

from corank.core.files import write_text
from corank.datasets.feed.world import DAY, DEVICES, FIRST_DAY, instants
from corank.datasets.simulated import WORLDS, Simulated
from corank_lab.datasets.news_world import DAYS, NewsBlock, NewsTraffic, NewsWorld
from corank_lab.datasets.reader_table import describe_reads

VALID, TEST = (FIRST_DAY.date() + timedelta(days=DAYS - n) for n in (2, 1))
"""The days for validation and for the test."""

_PART = 16  # blocks of a file


@WORLDS.register("news")
class News(NewsWorld):
    """A news site: articles that live two days, readers of whom few return, lists of 5 to 100 candidates.

    Written are `log/`, a row a request with lists of candidates, `truth/`, `items.parquet`, `users.parquet` and, last,
    `config.yaml`: a folder without it is an interrupted simulation.
    """

    # config.yaml goes first, so that what follows does not look complete
    files = ("config.yaml", "items.parquet", "users.parquet", "log/part-*.parquet", "truth/part-*.parquet")

    def write(self, out: Path) -> Simulated:
        """Write the tables and the config."""
        traffic = NewsTraffic(self)
        candidates = clicks = offset = 0
        part: list[pl.DataFrame] = []
        truth: list[pl.DataFrame] = []
        for number, block in enumerate(traffic):
            part.append(list_requests(block, offset))
            truth.append(true_probabilities(block, offset))
            candidates, clicks = candidates + len(block.item), clicks + int(block.click.sum())
            offset += len(block)
            if len(part) == _PART or offset == self.requests:
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
        template = Template(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
        config = template.substitute(self.model_dump(), valid=VALID, test=TEST)
        write_text(out / "config.yaml", config)
        return Simulated(candidates, candidates, clicks)


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


def simulate_parts(traffic: NewsTraffic, out: Path) -> tuple[list[pl.DataFrame], Simulated]:
    """Simulate the requests before the last day and those of it, with the readers' histories, and write `truth/`."""
    blocks = list(traffic)
    starts = np.cumsum([0, *map(len, blocks)])[:-1].tolist()
    log = pl.concat(list_requests(b, first) for b, first in zip(blocks, starts, strict=True))
    log = log.join(traffic.readers.history, "user_id", how="left", maintain_order="left")
    truth = pl.concat(true_probabilities(b, first) for b, first in zip(blocks, starts, strict=True))
    truth.write_parquet(out / "truth" / "truth.parquet")
    last = int(np.searchsorted(traffic.time, (DAYS - 1) * DAY))
    clicks = int(sum(block.click.sum() for block in blocks))
    return [log[:last], log[last:]], Simulated(len(truth), len(truth), clicks)

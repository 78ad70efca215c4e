"""The simulated feed in RecFlow's layout, to try the importer without RecFlow itself.

`all_stage/DATE.feather` holds a row per candidate, `realshow/DATE.feather` those of them that were exposed.

Letters: R requests · C candidates of a request.
"""

from collections.abc import Iterator
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.time import midnight
from corank.core.types import Floats, Longs
from corank.datasets.feed.production import EXPOSED, PRERANKED, RANKED, RETRIEVED
from corank.datasets.feed.traffic import Block, Traffic
from corank.datasets.feed.world import DEVICES, PRESETS, Codes, FeedSizes, SimulatedItems, Users, World
from corank.datasets.simulated import WORLDS, Simulated, SimulatedWorld
from corank_lab.datasets.recflow import BEGIN, COLUMNS, TIMEZONE

_SPACED = {"category_level_two": " category_level_two"}
_UNKNOWN = -1
_ON_SCREEN = 0.6
"""Share of a page that is on screen, and so exposed; the rest is below it."""
_RATES = {"like": 0.1, "follow": 0.02, "forward": 0.02, "comment": 0.03}
"""Rate of each among effective views."""


@WORLDS.register("recflow")
class RecFlowFiles(FeedSizes, SimulatedWorld):
    """The feed as RecFlow's files: `all_stage/`, `realshow/` and, in addition to its own, `truth/`, a file a day.

    With 50 candidates or more every request has at least ten of prerank_neg, coarse_neg, rank_neg and rank_pos.
    Every other day the file spells `category_level_two` with a leading space, as some of the release do.
    """

    presets = tuple(PRESETS)
    format = "recflow"
    files = ("all_stage/*.feather", "realshow/*.feather", "truth/*.parquet")

    def write(self, out: Path) -> Simulated:
        """Write the files of every day."""
        exposed = views = 0
        for day, candidates_of_day in _days(World(**self.model_dump())):
            name = str(BEGIN + timedelta(days=day))
            rows = candidates_of_day.select(pl.col(COLUMNS).cast(pl.Int64))
            shown = rows.filter(pl.col("realshow") == 1)
            for folder, table in (("all_stage", rows), ("realshow", shown)):
                table.rename(_SPACED if day % 2 else {}).write_ipc(
                    out / folder / f"{name}.feather", compression="lz4"
                )
            truth = candidates_of_day.select("request_id", "video_id", effective_view="truth")
            truth.write_parquet(out / "truth" / f"{name}.parquet")
            exposed += shown.height
            views += int(shown["effective_view"].sum())
        return Simulated(self.requests * self.candidates, exposed, views)


def _days(world: World) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield each day that has requests, and its candidates with their `truth`; memory holds one day."""
    traffic = Traffic(world)
    rng = np.random.default_rng([world.seed, 2])
    person, video = _people(traffic.reality.users), _videos(traffic.reality.items)
    first = 0
    for day, blocks in groupby(traffic, key=lambda block: int(block.requests.day[0])):
        parts = []
        for block in blocks:
            request = pl.DataFrame(
                {
                    "request_id": np.arange(first, first + len(block.requests)),
                    "request_timestamp": _milliseconds(block.requests.time),
                    "user_id": block.requests.user,
                    "device_id": block.requests.user * len(DEVICES) + block.requests.device,
                }
            )
            of = np.repeat(np.arange(len(request)), world.candidates)
            rows = request[of].hstack(person[block.requests.user[of]]).hstack(video[block.item.ravel()])
            parts.append(_with_views(rows.hstack(_stages(world, block)), rng))
            first += len(request)
        yield day, pl.concat(parts)


def _milliseconds(time: Longs) -> Longs:
    """Times of the world, whose first day becomes RecFlow's in China, as milliseconds."""
    return midnight(BEGIN, TIMEZONE) + time // 1000


def _people(users: Users) -> pl.DataFrame:
    """A row per user: age in tens, gender and city as codes."""
    return users.table.select(
        age=(pl.col("age") // 10).cast(pl.Int64).fill_null(_UNKNOWN),
        gender=(pl.col("gender") == "m").cast(pl.Int64),
        province=_code("city"),
    )


def _videos(items: SimulatedItems) -> pl.DataFrame:
    """A row per item: its brand for the author, its first tag for a finer category, its price for a length."""
    published = pl.Series(_milliseconds(items.published) // 1000)
    return items.table.select(
        video_id="item_id",
        author_id=_code("brand"),
        category_level_one=_code("category"),
        category_level_two=pl.col("tags")
        .list.first()
        .str.extract(r"(\d+)")
        .cast(pl.Int64)
        .fill_null(_UNKNOWN),
        upload_type=pl.col("quality").round().cast(pl.Int64).fill_null(_UNKNOWN),
        upload_timestamp=published,
        duration=(1000 * pl.col("price")).round().cast(pl.Int64),
    )


def _code(column: str) -> pl.Expr:
    """The number in names such as `brand_012`."""
    return pl.col(column).str.extract(r"(\d+)").cast(pl.Int64).fill_null(_UNKNOWN)


def _stages(world: World, block: Block) -> pl.DataFrame:
    """Flags and ranks of every candidate, clicks and truth: (R·C,) each.

    Of what production's pre-ranker cut, the half with the higher scores counts as cut by the coarse ranker.
    """
    level, position = block.level, block.position
    rank = _ranks(-block.rank, position, -level)
    middle = (world.preranked + world.candidates) // 2
    coarse = _ranks(-block.prerank, -level) <= middle
    cut = level == RETRIEVED
    on_screen = (level == EXPOSED) & (position <= max(1, round(_ON_SCREEN * world.shown)))
    columns = {
        "realshow": on_screen,
        "rerank_pos": level == EXPOSED,
        "rerank_neg": level == RANKED,
        "rank_pos": level >= RANKED,
        "rank_neg": level == PRERANKED,
        "coarse_neg": cut & coarse,
        "prerank_neg": cut & ~coarse,
        "rank_index": np.where(cut, 0, rank),
        "rerank_index": np.where(level >= RANKED, rank, 0),
        "effective_view": block.click & on_screen,
        "truth": block.truth,
    }
    return pl.DataFrame({name: values.ravel() for name, values in columns.items()})


def _ranks(*keys: Codes | Floats) -> Longs:
    """Each candidate's rank in its request, from 1, by the last key, then the one before it, …: (R, C)."""
    return np.asarray(np.argsort(np.lexsort(keys, axis=1), axis=1) + 1, dtype=np.int64)


def _with_views(rows: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Add playing times and labels: a view of 30 % of a video is effective, of all of it long."""
    n = len(rows)
    watched = pl.Series(rng.random(n))
    share = pl.when("effective_view").then(0.3 + 1.2 * watched).otherwise(0.3 * watched)
    seen = pl.col("realshow")
    marks = {
        name: pl.col("effective_view") & pl.Series(rng.random(n) < rate) for name, rate in _RATES.items()
    }
    return rows.with_columns(
        playing_time=pl.when(seen).then(share * pl.col("duration")).otherwise(0).cast(pl.Int64),
        long_view=seen & (share >= 1),
        **marks,
    )

"""`corank simulate`: the log of a simulated funnel whose truth is known, and a config that trains on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template

import numpy as np
import polars as pl

from corank.core.errors import DataError
from corank.core.files import write_text
from corank.core.locks import LOCK, WriteLock
from corank.core.settings import Settings, validate
from corank.datasets.feed.production import CHANNELS, EXPOSED
from corank.datasets.feed.traffic import Block, Traffic
from corank.datasets.feed.world import DAYS, DEVICES, FIRST_DAY, TABS, World, instants
from corank.features.log_schema import LEVELS

CONFIG = Template("""\
# A simulated world: $requests requests of $candidates candidates, preset `$preset`, seed $seed.
# Production kept $preranked of a request's candidates, then $ranked, and exposed $shown.
name: simulated-$preset
data:
  log: log/*.parquet
  items: items.parquet
  users: users.parquet
  truth: truth/*.parquet      # the click probability of every candidate; read by evaluation alone
  request: [request_id]
  user: user_id
  item: item_id
  time: time
  level: level                # how far a candidate got, from the shallowest level to the deepest:
  levels: [retrieved, preranked, ranked, exposed]
  labels:
    click: {column: is_click}
  split: {valid: $valid, test: $test}$columns
features:
  user_id:         {side: user, kind: id}
  age:             {side: user, kind: bucket, buckets: 8}
  gender:          {side: user, kind: id}
  city:            {side: user, kind: id}
  activity:        {side: user, kind: number, scale: log}
  # The user's clicks before the day of the request; shares the table of item_id.
  history:         {side: user, kind: ids, of: item_id, event: click, last: 50, every: 1d}
  tab:             {side: context, kind: id}
  hour:            {side: context, kind: id}
  device:          {side: context, kind: id}
  item_id:         {side: item, kind: id}
  category:        {side: item, kind: id}
  brand:           {side: item, kind: id}
  price:           {side: item, kind: number, scale: log}
  quality:         {side: item, kind: bucket, buckets: 16}
  freshness:       {side: item, kind: number, scale: quantile}
  tags:            {side: item, kind: ids}
  # The user's clicks before the day on the candidate's category: a pair's, so the ranker's alone.
  category_clicks: {side: cross, kind: number, scale: log}
stages:
  - {name: prerank, model: towers, cuts: [retrieved], keep: $preranked, query: [512, 128, 64, 32], item: [512, 128, 64, 32]$prerank_value}
  - {name: rank, model: mlp, cuts: [preranked], keep: $shown, hidden: [128, 128, 128], labels: [click], value: $value}
losses:
  - {kind: click, stage: rank}
  - {kind: click, stage: prerank}
  - {kind: unexposed, stage: prerank, from: [retrieved], per_request: 10, weight: 0.5}
  - {kind: distill, teacher: rank, student: prerank, form: pointwise, on: [exposed, ranked, preranked], warm_up: 200}
train: {epochs: 2, requests: 256}
""")  # noqa: E501


AUCTION = """
  columns: [bid]              # what a click pays, of every candidate
  position: position          # where it stood on the page explains a part of the clicks, in training alone"""


# config.yaml goes first, so that what follows does not look complete
_FILES = ("config.yaml", "items.parquet", "users.parquet", "log/part-*.parquet", "truth/part-*.parquet")


class Simulated(Settings):
    """The world that was written, and its counts of candidates, exposures and clicks."""

    world: World
    candidates: int
    exposed: int
    clicks: int


def simulate_world(
    out: Path,
    preset: str = "medium",
    seed: int = 0,
    requests: int = 10_000,
    candidates: int = 200,
    users: int = 2_000,
    items: int = 5_000,
    auction: bool = False,
    overwrite: bool = False,
) -> Simulated:
    """Write `log/`, `truth/`, `items.parquet`, `users.parquet` and, last, `config.yaml` into `out`.

    A folder without config.yaml is an interrupted simulation. The same arguments give the same bytes.

    Raises:
        ConfigError: an argument is out of range.
        BusyError: another process writes into `out`.
        DataError: `out` is a file, or a folder with something in it and `overwrite` is not set.
    """
    wanted: dict[str, object] = {
        "preset": preset,
        "seed": seed,
        "requests": requests,
        "candidates": candidates,
    }
    wanted |= {"users": users, "items": items, "auction": auction}
    world = validate(World, wanted, "simulate")
    with clear_folder(out, overwrite, _FILES):
        return _write_world(world, out)


def _write_world(world: World, out: Path) -> Simulated:
    traffic = Traffic(world)
    exposed = clicks = offset = 0
    for part, block in enumerate(traffic):
        log = _log(block, offset)
        log.write_parquet(out / "log" / f"part-{part:05}.parquet")
        truth = log.select("request_id", "item_id", click=pl.Series(block.truth.ravel()))
        truth.write_parquet(out / "truth" / f"part-{part:05}.parquet")
        exposed += int((block.level == EXPOSED).sum())
        clicks += int(block.click.sum())
        offset += len(block.requests)
    traffic.reality.items.table.write_parquet(out / "items.parquet")
    traffic.reality.users.table.write_parquet(out / "users.parquet")
    _write_config(world, out / "config.yaml")
    return Simulated(world=world, candidates=offset * world.candidates, exposed=exposed, clicks=clicks)


@contextmanager
def clear_folder(out: Path, overwrite: bool, files: Sequence[str]) -> Iterator[None]:
    """Make a folder ready for a world, remove the files of an earlier one, and lock it until the block ends.

    Args:
        files: globs of the files, in the order in which they are removed.

    Raises BusyError, and DataError if `out` is a file, or holds anything and `overwrite` is not set.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; name a folder to write the simulated world into")
    try:
        lock = WriteLock.of_folder(out, "simulate")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}") from None
    with lock:
        if not overwrite and any(path.name != LOCK for path in out.iterdir()):
            raise DataError(f"{out}: the folder is not empty; name another, or overwrite the world in it")
        for pattern in files:
            for old in sorted(out.glob(pattern)):
                old.unlink()
            (out / pattern).parent.mkdir(parents=True, exist_ok=True)
        yield


def _log(block: Block, offset: int) -> pl.DataFrame:
    """The log of a block, a row per candidate; its requests are numbered from `offset`."""
    requests = block.requests
    n, candidates = block.item.shape
    by_request = pl.DataFrame(
        {
            "request_id": np.arange(offset, offset + n),
            "user_id": requests.user,
            "time": instants(requests.time),
            "tab": pl.Series(TABS).gather(requests.tab),
            "hour": requests.hour.astype(np.int8),
            "device": pl.Series(DEVICES).gather(requests.device),
            "policy": pl.Series(["production", "random"]).gather(requests.random.astype(np.int8)),
        }
    )
    exposed = pl.Series(block.level.ravel() == EXPOSED)
    return by_request[np.repeat(np.arange(n), candidates)].select(
        "request_id",
        "user_id",
        pl.Series("item_id", block.item.ravel()),
        "time",
        "tab",
        "hour",
        "device",
        pl.Series("channel", CHANNELS).gather(block.channel.ravel()),
        pl.Series("category_clicks", block.category_clicks.ravel()),
        pl.Series("level", LEVELS).gather(block.level.ravel()),
        pl.when(exposed).then(pl.Series(block.click.ravel().astype(np.int8))).alias("is_click"),
        pl.when(exposed).then(pl.Series(block.position.ravel())).alias("position"),
        "policy",
        pl.Series("score_prerank", block.prerank.ravel()),
        pl.Series("score_rank", block.rank.ravel()),
        *([] if block.bid is None else [pl.Series("bid", block.bid.ravel())]),
    )


def _write_config(world: World, path: Path) -> None:
    """Write the config; the last two days are for validation and test."""
    day = FIRST_DAY.date()
    text = CONFIG.substitute(
        world.model_dump(),
        preranked=world.preranked,
        ranked=world.ranked,
        shown=world.shown,
        valid=day.replace(day=day.day + DAYS - 2),
        test=day.replace(day=day.day + DAYS - 1),
        columns=AUCTION if world.auction else "",
        value="click * bid" if world.auction else "click",
        prerank_value=", value: click * bid" if world.auction else "",
    )
    write_text(path, text)

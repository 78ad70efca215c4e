"""`corank simulate`: the log of a simulated funnel whose truth is known, and a config that trains on it."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import polars as pl

from corank.core.files import write_text
from corank.core.settings import validate
from corank.datasets.feed.organic import Organic
from corank.datasets.feed.production import CHANNELS, EXPOSED
from corank.datasets.feed.traffic import Block, Traffic
from corank.datasets.feed.world import DEVICES, FIRST_DAY, PRESETS, TABS, World, instants
from corank.datasets.simulated import WORLDS, Simulated, SimulatedWorld
from corank.features.log_schema import LEVELS

CONFIG = Template("""\
# A simulated world: $requests requests of $candidates candidates, preset `$preset`, seed $seed.$described
# Production kept $preranked of a request's candidates, then $ranked, and exposed $shown.
name: simulated-$preset
data:
  log: $log
  items: $items
  users: users.parquet
  truth: truth/*.parquet      # the click probability of every candidate; read by evaluation alone
  request: [request_id]
  user: user_id
  item: item_id
  time: time
  level: level                # how far a candidate got, from the shallowest level to the deepest:
  levels: [retrieved, preranked, ranked, exposed]
  labels:
    click: {column: is_click}$later
  split: $split$columns
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
  item_id:         {side: item, kind: id$kept}
  category:        {side: item, kind: id}
  brand:           {side: item, kind: id}
  price:           {side: item, kind: number, scale: log}
  quality:         {side: item, kind: bucket, buckets: 16}
$age
  tags:            {side: item, kind: ids}
  # The user's clicks before the day on the candidate's category: a pair's, so the ranker's alone.
  category_clicks: {side: cross, kind: number, scale: log}
stages:
  - name: prerank
    model: towers
    cuts: [retrieved]
    keep: $preranked
    query: [512, 128, 64, 32]
    item: [512, 128, 64, 32]
    feature_dropout: {item_id: 0.3}    # left out of 3 rows in 10, so that an item's vector leans on its attributes$prerank_value
  - {name: rank, model: mlp, cuts: [preranked], keep: $rank_keep, hidden: [128, 128, 128], labels: [click], value: $value}$page
losses:
  - {kind: click, stage: rank}         # both stages learn from the clicks on what was exposed;
  - {kind: click, stage: prerank}
  # the pre-ranker also from what was cut, of which ten candidates a request count as not clicked,
  - {kind: unexposed, stage: prerank, from: [retrieved], per_request: 10, weight: 0.2}
  # and from the batch: a clicked item must lead the items of other requests.
  - {kind: in_batch, stage: prerank, weight: 0.05, temperature: 2}$outcomes
train: {epochs: 2, requests: 256}
""")  # noqa: E501


JOINED = """\
joined/*.parquet       # corank join 'log/*.parquet' --out joined --window 3d --label 'later=organic/*.parquet:order'"""
LATER = """
    later: {column: later, known: everywhere}    # what a user did by another path, also with what was cut"""
OUTCOMES = """
  # Both learn what users did later: it leads other candidates, beyond how often their items are acted on there.
  - {kind: outcome, stage: prerank, of: later, weight: 0.03}
  - {kind: outcome, stage: rank, of: later, weight: 0.03}"""


AUCTION = """
  columns: [bid]              # what a click pays, of every candidate
  position: position          # where it stood on the page explains a part of the clicks, in training alone"""


SATIATION = """
  satiation: {of: category, share: $satiation}    # how users tire; read by the truth of pages alone"""
PAGE = """
  # the slots of a page, by value and by what stands on it already; nothing of it is trained
  - {name: page, model: page, keep: $shown, method: dpp, by: category, strength: 0.7}"""


BUCKET = """
  propensity: propensity      # of what was exposed at random, at what probability; null where production chose"""


DRIFT = """
# It changes from day to day: tastes and effects of the context walk by $walk, and an item is there for $lifetime days.
# `log` and `truth` have a file a day, and `items` a file for each day on which items are published."""
AGES = """\
  published:       {side: item, kind: time}
  item_age:        {kind: age, of: published, every: 1d}"""
FRESHNESS = "  freshness:       {side: item, kind: number, scale: quantile}"

_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].parquet"


@WORLDS.register("feed")
class Feed(World, SimulatedWorld):
    """A feed of items: retrieval, a pre-ranker and a ranker of production, clicks by a law that is known.

    Written are `log/`, `truth/`, `items.parquet`, `users.parquet` and, last, `config.yaml`: a folder without it is an
    interrupted simulation. A world that drifts has a file a day in `log/` and `truth/`, and its items in `items/`, by
    the day of publication. What users do outside of the funnel is in `organic/`, by the day.
    """

    presets = tuple(PRESETS)
    # config.yaml goes first, so that what follows does not look complete
    files = (
        *("config.yaml", "items.parquet", "users.parquet", "log/part-*.parquet", "truth/part-*.parquet"),
        *(f"log/{_DAY}", f"truth/{_DAY}", f"items/{_DAY}", f"organic/{_DAY}"),
    )

    def write(self, out: Path) -> Simulated:
        """Write the tables and the config."""
        traffic = Traffic(self)
        organic = None if self.organic is None else Organic(self)
        exposed = clicks = offset = 0
        for name, blocks in _files(self, traffic):
            logs, truths = [], []
            for block in blocks:
                logs.append(_log(block, offset, self))
                truths.append(logs[-1].select("request_id", "item_id", click=pl.Series(block.truth.ravel())))
                if organic is not None:
                    organic.add(block)
                exposed += int((block.level == EXPOSED).sum())
                clicks += int(block.click.sum())
                offset += len(block.requests)
            pl.concat(logs).write_parquet(out / "log" / name)
            pl.concat(truths).write_parquet(out / "truth" / name)
        if organic is not None:
            organic.write(out / "organic", self.days)
        items = traffic.reality.items.table
        if self.drift is None:
            items.write_parquet(out / "items.parquet")
        else:
            for (day,), published in items.group_by(pl.col("published").dt.date(), maintain_order=True):
                published.write_parquet(out / "items" / f"{day}.parquet")
        traffic.reality.users.table.write_parquet(out / "users.parquet")
        _write_config(self, out / "config.yaml")
        return Simulated(offset * self.candidates, exposed, clicks)


def simulate_world(out: Path, *, overwrite: bool = False, **options: Any) -> Simulated:
    """Write a feed into `out`; `options` are fields of `Feed`.

    Raises ConfigError if an option is out of range, and what `SimulatedWorld.simulate` raises.
    """
    return validate(Feed, options, "simulate").simulate(out, overwrite)


def _files(world: World, traffic: Traffic) -> Iterator[tuple[str, Iterable[Block]]]:
    """Yield the files of the log by name, with their blocks: a block each, or, of a world that drifts, a day each."""
    if world.drift is None:
        for part, block in enumerate(traffic):
            yield f"part-{part:05}.parquet", [block]
        return
    for day, blocks in groupby(traffic, key=lambda block: int(block.requests.day[0])):
        yield f"{FIRST_DAY.date() + timedelta(days=day)}.parquet", blocks


def _log(block: Block, offset: int, world: World) -> pl.DataFrame:
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
    chance = pl.when(policy="random").then(pl.lit(world.shown / world.candidates, pl.Float32))
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
        *([] if world.random is None else [chance.alias("propensity")]),
    )


def _write_config(world: World, path: Path) -> None:
    """Write the config; the last two days are for validation and test."""
    valid, test = (FIRST_DAY.date() + timedelta(days=world.days - n) for n in (2, 1))
    drift = world.drift
    ranges = f"{{train: ..{valid}, valid: {valid}..{test}, test: {test}..}}"
    text = CONFIG.substitute(
        world.model_dump(exclude={"items"}),
        preranked=world.preranked,
        ranked=world.ranked,
        shown=world.shown,
        described=Template(DRIFT).substitute(drift.model_dump()) if drift else "",
        items="items/*.parquet" if drift else "items.parquet",
        log="log/*.parquet" if world.organic is None else JOINED,
        later="" if world.organic is None else LATER,
        outcomes="" if world.organic is None else OUTCOMES,
        split=ranges if drift else f"{{valid: {valid}, test: {test}}}",
        kept=f", keep_days: {drift.lifetime}" if drift else "",
        age=AGES if drift else FRESHNESS,
        columns=(AUCTION if world.auction else "")
        + (BUCKET if world.random is not None else "")
        + Template(SATIATION if world.satiation else "").substitute(satiation=world.satiation),
        rank_keep=world.ranked if world.satiation else world.shown,
        page=Template(PAGE if world.satiation else "").substitute(shown=world.shown),
        value="click * bid" if world.auction else "click",
        prerank_value="\n    value: click * bid" if world.auction else "",
    )
    write_text(path, text)

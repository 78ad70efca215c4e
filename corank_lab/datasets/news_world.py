"""A simulated news world: articles that live two days, readers of whom few return, what they like, and what they click.

Content carries the taste: an article's vector holds its topic, mixed with a style that nobody cares about, and some
noise. How good a story is shows in its clicks alone, and every story grows old. Clicks are independent, with a known
probability.

Letters: U readers · I articles · K topics · D dimensions of a content vector · W words · R requests ·
C candidates of a request, the longest · N candidates of all requests of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from corank.core.lazy import lazy
from corank.core.types import Doubles, Floats, Longs, Mask
from corank.datasets.feed.world import DAY, DEVICES, Codes, instants, zipf
from corank.datasets.simulated import SimulatedWorld

optimize = lazy("scipy.optimize", "corank simulate")
special = lazy("scipy.special", "corank simulate")

DAYS = 8
"""Days of the log; the last two are for validation and test."""
BEFORE = 10
"""Days before the log, whose articles the readers' histories hold."""
LIFE = 2 * DAY
"""How long an article is a candidate, in microseconds."""
SHORTEST = 5
"""Candidates of a request, at least."""
TOPICS, STYLES, DIMENSIONS = 12, 12, 48
CATEGORIES, SUBCATEGORIES = 16, 80
WORDS = 600
CLICK_RATE = 0.06
"""Share of the candidates that are clicked."""
TASTE, AGE = 1.3, 0.9
"""Logits of a unit of affinity, and that an article loses in a day."""
_PILOT = 512  # requests on which the click rate is fitted
_LONGEST_HISTORY = 50
_TASTE = 1.6  # logits of a unit of affinity when old articles were clicked
_BLOCK = 1024


class NewsWorld(SimulatedWorld):
    """The settings that determine a news world entirely, in any format."""

    presets = ("news",)

    requests: PositiveInt = 20_000
    candidates: int = Field(default=100, ge=2 * SHORTEST)
    """Candidates of a request, at most; requests have SHORTEST to so many."""
    users: PositiveInt = 40_000
    items: int = Field(default=5_000, ge=200)


@dataclass(frozen=True)
class Articles:
    """The articles in the order of publication."""

    topic: Floats  # (I, K), unit variance
    quality: Floats  # (I,) logits that clicks alone show
    published: Longs  # (I,) ascending microseconds from the log's first day; negative before it
    table: pl.DataFrame  # what is logged of them

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int) -> Self:
        """Draw n articles over all days, at an even rate."""
        published = np.sort(rng.integers(-BEFORE * DAY, DAYS * DAY, n))
        subcategory = rng.choice(SUBCATEGORIES, n, p=zipf(SUBCATEGORIES, 0.6))
        category = subcategory % CATEGORIES
        topic = (
            0.8 * _normal(rng, CATEGORIES, TOPICS)[category]
            + 0.5 * _normal(rng, SUBCATEGORIES, TOPICS)[subcategory]
            + 0.6 * _normal(rng, n, TOPICS)
        )
        topic /= np.float32(np.sqrt(np.mean(topic**2)))
        quality = 0.7 * rng.standard_normal(n)
        texts = _draw_texts(rng, topic)
        table = pl.DataFrame(
            {
                "item_id": np.arange(n),
                "category": _named("category", category),
                "subcategory": _named("subcategory", subcategory),
                "published": instants(published),
                "title": texts.list.head(8).list.join(" "),
                "abstract": texts.list.slice(8).list.join(" "),
                "vector": pl.Series(_draw_vectors(rng, topic), dtype=pl.Array(pl.Float32, DIMENSIONS)),
            }
        )
        return cls(topic, quality.astype(np.float32), published, table)

    @property
    def old(self) -> int:
        """How many articles were published before the log begins."""
        return int(np.searchsorted(self.published, 0))


@dataclass(frozen=True)
class Readers:
    """The readers, with their tastes, and what they read before the log begins."""

    taste: Floats  # (U, K), unit variance
    share: Doubles  # (U,) of all requests
    table: pl.DataFrame  # what is logged of them
    history: pl.DataFrame
    """Lists by reader, oldest first: `history` the articles, `history_time` when, `history_seconds` how long."""

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, articles: Articles) -> Self:
        """Draw n readers; each likes a few categories, and some were never here before."""
        centres = _normal(rng, 30, TOPICS)
        taste = (
            centres[rng.integers(30, size=n)] + centres[rng.integers(30, size=n)] + _normal(rng, n, TOPICS)
        )
        taste = (taste / np.sqrt(np.mean(taste**2))).astype(np.float32)
        activity = rng.lognormal(0.0, 0.5, n)
        missing = rng.random(n) < 0.5
        age = np.where(missing, np.nan, 20.0 + rng.integers(50, size=n))
        table = pl.DataFrame(
            {
                "user_id": np.arange(n),
                "age": pl.Series(age).fill_nan(None),
                "subscriber": (rng.random(n) < 0.15).astype(np.int8),
            }
        )
        return cls(taste, activity / activity.sum(), table, _draw_histories(rng, taste, articles))


@dataclass(frozen=True)
class NewsBlock:
    """Requests in the order of time, and their candidates one after another."""

    user: Longs  # (R,)
    time: Longs  # (R,) microseconds from the log's first day
    device: Codes  # (R,)
    length: Longs  # (R,) candidates
    item: Longs  # (N,)
    click: Mask  # (N,)
    truth: Floats  # (N,) the click probability

    def __len__(self) -> int:
        return len(self.user)


class NewsTraffic:
    """All requests of a news world, in the order of time."""

    def __init__(self, world: NewsWorld) -> None:
        rng = np.random.default_rng([world.seed, 0])
        self.world = world
        self.articles = Articles.draw(rng, world.items)
        self.readers = Readers.draw(rng, world.users, self.articles)
        self.by_device = 0.2 * rng.standard_normal((len(DEVICES), SUBCATEGORIES))
        n = world.requests
        self.user = rng.choice(world.users, n, p=self.readers.share)
        hours = np.arange(24)
        busy = 0.3 + np.exp(-(((hours - 8) / 2.5) ** 2)) + 0.7 * np.exp(-(((hours - 19) / 3) ** 2))
        hour = rng.choice(24, n, p=busy / busy.sum())
        self.time = np.sort(
            rng.integers(DAYS, size=n) * DAY + hour * (DAY // 24) + rng.integers(DAY // 24, size=n)
        )
        self.device = rng.choice(len(DEVICES), n, p=(0.5, 0.2, 0.3))
        # what an editor believes of a story decides how often it is exposed
        self.belief = (0.6 * self.articles.quality + 0.6 * rng.standard_normal(world.items)).astype(
            np.float32
        )
        self.constant = 0.0
        block = self._simulate_block(
            np.random.default_rng([world.seed, 2]), rng.choice(n, min(_PILOT, n), False)
        )
        logit = np.log(block.truth / (1 - block.truth))
        self.constant = float(
            optimize.brentq(lambda c: float(np.mean(special.expit(logit + c))) - CLICK_RATE, -30, 30)
        )

    def __iter__(self) -> Iterator[NewsBlock]:
        rng = np.random.default_rng([self.world.seed, 1])
        for start in range(0, self.world.requests, _BLOCK):
            yield self._simulate_block(rng, np.arange(start, min(start + _BLOCK, self.world.requests)))

    def _simulate_block(self, rng: np.random.Generator, requests: Longs) -> NewsBlock:
        user, time, device = self.user[requests], self.time[requests], self.device[requests]
        alive = np.searchsorted(self.articles.published, [time - LIFE, time])
        length = np.clip(np.round(rng.lognormal(3.1, 0.8, len(requests))), SHORTEST, self.world.candidates)
        length = np.minimum(length.astype(np.int64), alive[1] - alive[0])
        of, item = self._draw_candidates(rng, time, alive, length)
        truth = special.expit(self._logit(user[of], device[of], time[of], item) + self.constant)
        click = rng.random(len(item)) < truth
        return NewsBlock(user, time, device, length, item, click, truth.astype(np.float32))

    def _draw_candidates(
        self, rng: np.random.Generator, time: Longs, alive: Longs, length: Longs
    ) -> tuple[Longs, Longs]:
        """Draw distinct articles that are alive, more often those that are new and believed in: (N,), (N,)."""
        first, end = alive
        places = first[:, None] + np.arange((end - first).max(initial=1))
        item = np.minimum(places, len(self.belief) - 1)
        age = (time[:, None] - self.articles.published[item]) / DAY
        weight = self.belief[item] - age + rng.gumbel(size=item.shape)
        weight[places >= end[:, None]] = -np.inf
        order = np.argsort(-weight, axis=1)[:, : self.world.candidates]
        of, rank = np.nonzero(np.arange(order.shape[1]) < length[:, None])
        return of, item[of, order[of, rank]]

    def _logit(self, user: Longs, device: Codes, time: Longs, item: Longs) -> Floats:
        """The true log-odds of a click, without the constant that sets the click rate: (N,)."""
        articles = self.articles
        age = (time - articles.published[item]) / DAY
        liked = TASTE * match_topics(self.readers.taste[user], articles.topic[item])
        subcategory = articles.table["subcategory"].str.tail(2).cast(int).to_numpy()[item]
        return np.asarray(liked + articles.quality[item] - AGE * age + self.by_device[device, subcategory])


def match_topics(taste: Floats, topic: Floats) -> Floats:
    """⟨taste (…, K), topic (…, K)⟩ / √K, of unit variance."""
    return np.asarray((taste * topic).sum(-1) / np.float32(TOPICS**0.5))


def _normal(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    return rng.standard_normal((rows, columns), dtype=np.float32)


def _named(stem: str, codes: Codes) -> pl.Series:
    return pl.Series([f"{stem}_{code:02d}" for code in range(SUBCATEGORIES)]).gather(codes)


def _draw_vectors(rng: np.random.Generator, topic: Floats) -> Floats:
    """Content vectors (I, D): topic and style, each by directions of its own, and noise. Style is the louder one."""
    directions = np.linalg.qr(rng.standard_normal((DIMENSIONS, DIMENSIONS)))[0].astype(np.float32)
    style = 1.3 * _normal(rng, len(topic), STYLES)
    signal = topic @ directions[:TOPICS] + style @ directions[TOPICS : TOPICS + STYLES]
    return np.asarray(signal + 0.15 * _normal(rng, len(topic), DIMENSIONS), dtype=np.float32)


def _draw_texts(rng: np.random.Generator, topic: Floats) -> pl.Series:
    """Draw 30 words an article, each from those that fit its topic: a list of words, (I,)."""
    syllables = np.array([a + b for a in "bdfgklmnprst" for b in "aeiou"])
    words = pl.Series(["".join(w) for w in syllables[rng.integers(len(syllables), size=(WORDS, 3))]])
    fit = np.exp(2.0 * match_topics(topic[:, None, :], _normal(rng, WORDS, TOPICS)[None]).astype(np.float64))
    edges = np.cumsum(fit / fit.sum(1, keepdims=True), axis=1)
    drawn = np.stack([np.searchsorted(row, rng.random(30)) for row in edges]).clip(0, WORDS - 1)
    return pl.Series(
        words.gather(drawn.ravel()).to_numpy().reshape(drawn.shape).tolist(), dtype=pl.List(pl.String)
    )


def _draw_histories(rng: np.random.Generator, taste: Floats, articles: Articles) -> pl.DataFrame:
    """Draw which old articles each reader clicked: none for a tenth of them, often a few, at most 50."""
    old, n = articles.old, len(taste)
    length = np.minimum(rng.geometric(1 / 12, n), min(_LONGEST_HISTORY, old)) * (rng.random(n) >= 0.1)
    parts = []
    for start in range(0, n, _BLOCK):
        readers = slice(start, min(start + _BLOCK, n))
        liked = (
            _TASTE * taste[readers] @ articles.topic[:old].T / np.float32(TOPICS**0.5)
            + articles.quality[:old]
        )
        order = np.argsort(-(liked + rng.gumbel(size=liked.shape)), axis=1)[:, :_LONGEST_HISTORY]
        of, place = np.nonzero(np.arange(order.shape[1]) < length[readers, None])
        item = order[of, place]
        seconds = np.round(rng.lognormal(3.5, 0.8, len(item))).astype(np.int32)
        # old articles were read within their life, and before the log
        time = articles.published[item] + (rng.random(len(item)) * LIFE).astype(np.int64)
        columns = {"user_id": of + start, "history": item, "history_seconds": seconds}
        parts.append(pl.DataFrame(columns | {"history_time": instants(np.minimum(time, -1))}))
    clicks = pl.concat(parts).sort("user_id", "history_time", "history")
    lists = clicks.group_by("user_id", maintain_order=True).agg("history", "history_time", "history_seconds")
    everyone = pl.DataFrame({"user_id": np.arange(n)}).join(
        lists, "user_id", how="left", maintain_order="left"
    )
    return everyone.with_columns(pl.exclude("user_id").fill_null([]))

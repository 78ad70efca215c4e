"""A simulated news world: articles that live two days, readers of whom few return, and what they like.

Content carries the taste: an article's vector holds its topic, mixed with a style that nobody cares about, and some
noise. How good a story is shows in its clicks alone, and every story grows old.

Letters: U readers · I articles · K topics · D dimensions of a content vector · W words.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt

from corank.core.settings import Settings
from corank.core.types import Doubles, Floats, Longs
from corank.datasets.feed.world import DAY, Codes, instants, zipf

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
_LONGEST_HISTORY = 50
_TASTE = 1.6  # logits of a unit of affinity when old articles were clicked
_BLOCK = 1024


class NewsWorld(Settings):
    """The settings that determine a news world entirely."""

    seed: NonNegativeInt = 0
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

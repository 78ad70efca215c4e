"""A simulated world: its users, its items, and how much one likes the other.

A small feed. Tastes are partly explained by logged columns (age, city, category, brand, …) and partly personal, so
that ids and histories have something to learn. What is liked also depends on where and when it is exposed.

Letters: U users · I items · R requests · C candidates of a request · K tastes · G categories · S intents.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from corank.core.settings import Settings
from corank.core.types import Doubles, Floats, Longs, Mask, Numbers

FIRST_DAY = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 10
"""Days of a log, by default."""
DAY = 86_400_000_000
"""One day in microseconds, the unit of time here, counted from FIRST_DAY."""

TABS = ("feed", "follow", "local", "search")
DEVICES = ("android", "ios", "web")
GENDERS = ("f", "m")
CITIES, CATEGORIES, BRANDS, TAGS = 20, 24, 200, 120
TASTES, INTENTS = 8, 6
EXPLAINED = 0.65
"""Share of the variance of tastes that logged columns explain."""

Codes = NDArray[np.integer]


@dataclass(frozen=True)
class Preset:
    """Production's knowledge of the truth. Fixed before any study was run: a change makes its results invalid."""

    correlation: float
    """Pearson's correlation of production's scores with the true logit, over retrieved candidates."""
    hidden: float = 0.0
    """Standard deviation, in logits, of the effect of a request's intent on an item. Production knows it and clicks
    follow it, but it is not logged; the effects of an item average to zero over intents."""


PRESETS = {
    "weak": Preset(correlation=0.3),
    "medium": Preset(correlation=0.6),
    "strong": Preset(correlation=0.85),
    "hidden": Preset(correlation=0.6, hidden=0.8),
}
"""The same seed gives the same users, items and tastes in all presets."""


class Drift(Settings):
    """How a world changes from day to day."""

    walk: float = Field(default=0.2, ge=0, le=1)
    """How far tastes and the effects of the context move a day: x ← √(1 − walk²)·x + walk·x′, x′ drawn as x was. So
    their variance stays, and d days apart they correlate by (1 − walk²)^(d/2)."""
    lifetime: int = Field(default=5, ge=2)
    """Days for which an item exists. A day, 1 / lifetime of the items is new."""


class FeedSizes(Settings):
    """Preset, seed and sizes of a feed."""

    preset: Literal["weak", "medium", "strong", "hidden"] = "medium"
    seed: NonNegativeInt = 0
    requests: PositiveInt = 10_000
    candidates: int = Field(default=200, ge=10)
    """Candidates of each request."""
    users: PositiveInt = 2_000
    items: PositiveInt = 5_000

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.items < 2 * self.candidates:
            raise ValueError(
                f"items: a request has {self.candidates} distinct candidates, so write at least "
                f"{2 * self.candidates} items; received {self.items}"
            )
        return self


class World(FeedSizes):
    """The settings that determine a feed entirely."""

    auction: bool = False
    """Whether items bid for clicks, and production orders by click rate times bid."""
    days: int = Field(default=DAYS, ge=3)
    """Days of the log."""
    random: float | None = Field(default=None, gt=0, le=1)
    """Share of the requests of a random bucket, whose propensities are logged; RANDOM_TRAFFIC without, unless given."""
    interests: PositiveInt = 1
    """Tastes of each user. An item is liked as much as the taste likes it that likes it most."""
    drift: Drift | None = None
    """How the world changes; it does not unless given. With it, `items` are those that exist at a time."""

    satiation: float | None = Field(default=None, gt=0, le=1)
    """How users tire of what is alike: a candidate is clicked with the probability p · (1 − satiation)^m, m being how
    many candidates above it on the page are of its category. The truth of the log is p, what it is alone; that of a
    page is the sum over its slots (`corank.metrics.pages.satiated`). Production orders by score."""

    organic: float | None = Field(default=None, gt=0)
    """The chance that a user acts on a candidate outside of the funnel, as a share of its click probability."""
    awareness: float = Field(default=0.0, ge=0)
    """How unequally items are known there: the spread of a lognormal of mean 1, by which the chance is multiplied."""

    @property
    def catalogue(self) -> int:
        """Number of items of all days."""
        if self.drift is None:
            return self.items
        return -(-self.items * (self.days + self.drift.lifetime) // self.drift.lifetime)

    @property
    def shown(self) -> int:
        """Number of candidates of a request that are exposed."""
        return min(10, self.candidates // 5)

    @property
    def ranked(self) -> int:
        """Number of candidates that production's ranker keeps."""
        return 2 * self.shown

    @property
    def preranked(self) -> int:
        """Number of candidates that production's pre-ranker keeps."""
        return max(3 * self.shown, self.candidates // 4)


@dataclass(frozen=True)
class Users:
    """The users, with their tastes and what is logged of them."""

    taste: Floats  # (U, K), unit variance
    others: tuple[Floats, ...]  # (U, K) each: further interests
    bias: Floats  # (U,)
    share: Doubles  # (U,) of all requests
    joined: Codes  # (U,) day of the first possible request
    device: Codes  # (U,) the usual one
    groups: tuple[Codes, ...]  # (U,) each: parts of the explained part of tastes
    table: pl.DataFrame  # what is logged of them

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, days: int, interests: int = 1) -> Self:
        """Draw n users of a log of some days; age, gender and city explain two thirds of the variance of tastes."""
        decade = rng.choice(6, n, p=(0.25, 0.3, 0.2, 0.12, 0.08, 0.05))
        gender = rng.integers(len(GENDERS), size=n)
        city = rng.choice(CITIES, n, p=zipf(CITIES, 0.8))
        activity = rng.lognormal(0.0, 0.8, n)
        groups = decade, gender, city
        explained = _explain_tastes(rng, groups)
        joined = np.where(rng.random(n) < 0.15, rng.integers(1, days, n), 0)
        age = 18.0 + 9 * decade + rng.integers(9, size=n)
        table = pl.DataFrame(
            {
                "user_id": np.arange(n),
                "age": _some_missing(rng, age, 0.08),
                "gender": pl.Series(GENDERS).gather(gender),
                "city": _some_missing(rng, _names("city", city), 0.03),
                "activity": np.round(5 * activity * rng.lognormal(0.0, 0.2, n), 1),
            }
        )
        return cls(
            taste=_blend(explained, _tastes(rng, n)),
            others=tuple(_draw_interest(rng, groups) for _ in range(interests - 1)),
            bias=(0.2 * rng.standard_normal(n)).astype(np.float32),
            share=activity / activity.sum(),
            joined=joined,
            device=rng.choice(len(DEVICES), n, p=(0.55, 0.35, 0.1)),
            groups=groups,
            table=table,
        )

    def walk(self, rng: np.random.Generator, step: float) -> Self:
        """Users a day later: the tastes of their groups and their own have moved by a step, `Drift.walk`."""
        fresh = _draw_interest(rng, self.groups)
        others = tuple(move(other, _draw_interest(rng, self.groups), step) for other in self.others)
        return replace(self, taste=move(self.taste, fresh, step), others=others)


@dataclass(frozen=True)
class SimulatedItems:
    """The items in the order of publication, so that those that exist at a time are neighbours."""

    taste: Floats  # (I, K), unit variance
    bias: Floats  # (I,)
    category: Codes  # (I,)
    popularity: Doubles  # (I,) Zipf-like, sums to 1
    published: Longs  # (I,) ascending; negative before the first day
    lifetime: int | None  # days for which each exists; None for ever
    table: pl.DataFrame  # what is logged of them

    @classmethod
    def draw(cls, rng: np.random.Generator, world: World) -> Self:
        """Draw the items; category, brand, tags and price explain two thirds of the variance of tastes."""
        n = world.catalogue
        day = _publish(rng, world)
        category = rng.choice(CATEGORIES, n, p=zipf(CATEGORIES, 0.6))
        brand = rng.choice(BRANDS, n, p=zipf(BRANDS, 0.8))
        tags, has = _draw_tags(rng, category)
        price = rng.normal(0.0, 0.6, CATEGORIES)[category] + rng.normal(0.0, 0.6, n)
        explained = _tastes(rng, CATEGORIES)[category] + 0.7 * _tastes(rng, BRANDS)[brand]
        explained += 0.7 * (_tastes(rng, TAGS)[tags] * has[:, :, None]).sum(1)
        explained[:, 0] += price
        quality = rng.standard_normal(n)
        rating = 3.5 + 0.5 * (0.7 * quality + 0.7 * rng.standard_normal(n))
        rank = np.argsort(np.argsort(-(quality + 1.5 * rng.standard_normal(n))))
        bias = (
            0.4 * quality + 0.3 * rng.standard_normal(n) - 0.2 * price + 0.3 * np.exp(np.minimum(day, 0) / 14)
        )
        table = pl.DataFrame(
            {
                "item_id": np.arange(n),
                "category": _names("category", category),
                "brand": _some_missing(rng, _names("brand", brand), 0.02),
                "price": np.round(20 * np.exp(price), 2),
                "quality": _some_missing(rng, np.round(np.clip(rating, 1, 5), 1), 0.1),
                "published": instants((day * DAY).astype(np.int64)),
                "freshness": np.round(day, 3),
                "tags": _lists(_names("tag", tags[has]), has.sum(1)),
            }
        )
        return cls(
            taste=_blend(explained, _tastes(rng, n)),
            bias=bias.astype(np.float32),
            category=category,
            popularity=zipf(n, 0.8)[rank],
            published=(day * DAY).astype(np.int64),
            lifetime=world.drift.lifetime if world.drift else None,
            table=table,
        )

    def live(self, time: Longs) -> tuple[Longs, Longs]:
        """The items that exist at times (R,): from the first (R,) until the last and one (R,)."""
        end = np.searchsorted(self.published, time)
        if self.lifetime is None:
            return np.zeros_like(end), end
        return np.searchsorted(self.published, time - self.lifetime * DAY), end


def _publish(rng: np.random.Generator, world: World) -> Doubles:
    """Days of publication, ascending: (I,). Of a drifting world evenly, so that as many exist at any time."""
    if world.drift is not None:
        n = np.arange(world.catalogue)
        return np.asarray(
            (n + rng.random(len(n))) * world.drift.lifetime / world.items - world.drift.lifetime
        )
    old = world.items - world.items // 5
    before = -np.sort(rng.exponential(40.0, old))[::-1]
    return np.concatenate([before, np.sort(rng.uniform(0, world.days, world.items - old))])


def zipf(n: int, exponent: float) -> Doubles:
    """Shares of n values, the most frequent first: proportional to rank^-exponent."""
    share = np.arange(1, n + 1) ** -exponent
    return np.asarray(share / share.sum())


def affinity(query: Floats, vector: Floats, item: Longs) -> Floats:
    """⟨query (R, K), vector (I, K) of each item (R, C)⟩ / √K, of unit variance: (R, C)."""
    product = np.matmul(vector[item], query[:, :, None])[:, :, 0]
    return np.asarray(product / np.float32(TASTES**0.5))


def instants(microseconds: Longs) -> pl.Series:
    """Convert microseconds from FIRST_DAY to times in UTC."""
    epoch = microseconds + round(FIRST_DAY.timestamp() * 1_000_000)
    return pl.Series(epoch).cast(pl.Datetime("us", "UTC"))


def _tastes(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_normal((n, TASTES), dtype=np.float32)


def move(value: Floats, fresh: Floats, step: float) -> Floats:
    """One step of a random walk that keeps the variance: √(1 − step²)·value + step·fresh, of independent parts."""
    return np.asarray(np.float32((1 - step**2) ** 0.5) * value + np.float32(step) * fresh)


def _explain_tastes(rng: np.random.Generator, groups: tuple[Codes, ...]) -> Floats:
    """Draw what decade, gender and city have in common, and add it up by user: (U, K)."""
    decade, gender, city = groups
    tables = _tastes(rng, 6), _tastes(rng, len(GENDERS)), _tastes(rng, CITIES)
    return np.asarray(tables[0][decade] + tables[1][gender] + tables[2][city])


def _draw_interest(rng: np.random.Generator, groups: tuple[Codes, ...]) -> Floats:
    """Draw a taste of each user, explained in part by the user's groups: (U, K)."""
    return _blend(_explain_tastes(rng, groups), _tastes(rng, len(groups[0])))


def _blend(explained: Floats, own: Floats) -> Floats:
    """Tastes of about unit variance, the share EXPLAINED of which is explained by logged columns."""
    scale = np.sqrt(EXPLAINED / np.mean(explained**2))
    return np.asarray(scale * explained + np.sqrt(1 - EXPLAINED) * own, dtype=np.float32)


def _draw_tags(rng: np.random.Generator, category: Codes) -> tuple[Codes, Mask]:
    """Draw up to three distinct tags an item, some common in its category: codes (I, 3), and whether it has each."""
    third = TAGS // 3
    tags = (5 * category[:, None] + rng.integers(10, size=(len(category), 3))) % third + third * np.arange(3)
    return tags, rng.random(tags.shape) < 0.6


def _names(stem: str, codes: Codes) -> pl.Series:
    return pl.Series([f"{stem}_{code:03d}" for code in range(int(codes.max(initial=0)) + 1)]).gather(codes)


def _lists(values: pl.Series, lengths: Codes) -> pl.Series:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pl.Series(pa.LargeListArray.from_arrays(offsets, values.to_arrow()))


def _some_missing(rng: np.random.Generator, values: Numbers | pl.Series, share: float) -> pl.Series:
    table = pl.DataFrame({"value": values, "kept": rng.random(len(values)) >= share})
    return table.select(pl.when("kept").then("value")).to_series()

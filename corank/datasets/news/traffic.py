"""The traffic of a news world: requests, lists of articles that are alive, and independent clicks of known probability.

Letters: R requests · C candidates of a request, the longest · N candidates of all requests of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from corank.core.lazy import DeferredModule
from corank.core.types import Floats, Longs, Mask
from corank.datasets.feed.world import DAY, DEVICES, Codes
from corank.datasets.news.world import (
    DAYS,
    LIFE,
    SHORTEST,
    SUBCATEGORIES,
    Articles,
    NewsWorld,
    Readers,
    match_topics,
)

optimize = DeferredModule("train", "scipy.optimize", "corank simulate")
special = DeferredModule("train", "scipy.special", "corank simulate")

CLICK_RATE = 0.06
"""Share of the candidates that are clicked."""
TASTE, AGE = 1.3, 0.9
"""Logits of a unit of affinity, and that an article loses in a day."""

_PILOT = 512  # requests on which the click rate is fitted
_BLOCK = 1024


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

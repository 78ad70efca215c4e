"""The simulated production system: retrieval channels, two models that cut, and the page that exposes the rest.

Letters: R requests · C candidates of a request · P proposals for them · I items · K tastes · G categories.
"""

from dataclasses import dataclass

import numpy as np

from corank.core.types import Floats, Ints, Longs
from corank.datasets.feed.world import CATEGORIES, DAY, TASTES, Codes, SimulatedItems, World, affinity

CHANNELS = ("popular", "taste", "category", "fresh", "random")
QUOTAS = (0.25, 0.35, 0.2, 0.1)
"""Share of the candidates from each channel but the last; random items replace duplicates."""

RETRIEVED, PRERANKED, RANKED, EXPOSED = range(4)

_INDEX = 2048  # items that the taste channel searches: an approximate index reads a part of the catalogue


@dataclass(frozen=True)
class ProductionStage:
    """A production model: score = a · true logit + b · error + offset.

    Half of the error's variance belongs to the item, half to user taste × item. The error of a user and an item is
    fixed, so production makes the same mistakes in every request.
    """

    item: Floats  # (I,)
    taste: Floats  # (I, K)
    a: float = 1.0
    b: float = 0.0
    offset: float = 0.0

    def error(self, query: Floats, item: Longs) -> Floats:
        """The error for tastes (R, K) and items (R, C): (R, C)."""
        return self.item[item] + affinity(query, self.taste, item)

    def score(self, logit: Floats, error: Floats) -> Floats:
        """The production score of candidates: (R, C)."""
        return np.float32(self.a) * logit + np.float32(self.b) * error + np.float32(self.offset)

    def fit(self, logit: Floats, error: Floats, correlation: float) -> "ProductionStage":
        """Choose a, b and offset so that scores have unit variance and this correlation with the logit."""
        slope = float(np.polyfit(logit.ravel(), error.ravel(), 1)[0])
        b = np.sqrt(1 - correlation**2) / float(np.std(error - slope * logit))
        a = correlation / float(np.std(logit)) - b * slope
        offset = -float(np.mean(a * logit + b * error))
        return ProductionStage(self.item, self.taste, a, b, offset)


def draw_stages(rng: np.random.Generator, items: int) -> tuple[ProductionStage, ProductionStage]:
    """Draw pre-ranker and ranker; they share half of the variance of their errors, since they learn from one log."""

    def errors() -> Floats:
        return rng.standard_normal((items, 1 + TASTES), dtype=np.float32)

    common = errors()
    prerank, rank = (np.float32(0.5**0.5) * (common + errors()) for _ in range(2))
    return ProductionStage(prerank[:, 0], prerank[:, 1:]), ProductionStage(rank[:, 0], rank[:, 1:])


class SimulatedRetrieval:
    """The retrieval channels. They know the catalogue at the request's time, and clicks before the day."""

    def __init__(self, world: World, items: SimulatedItems) -> None:
        self.candidates = world.candidates
        self.items = items
        self.quotas = [int(share * world.candidates) for share in QUOTAS]
        self.channel_of_slot = np.repeat(np.arange(len(CHANNELS)), [*self.quotas, world.candidates])
        self.popularity = np.cumsum(self.items.popularity)
        self.by_category = np.argsort(self.items.category, kind="stable")
        self.category_key = self._key(self.items.category[self.by_category], self.by_category)

    def _key(self, category: Codes, item: Codes) -> Longs:
        return np.asarray(category * len(self.items.published) + item, dtype=np.int64)

    def __call__(
        self, rng: np.random.Generator, query: Floats, time: Longs, clicks: Ints
    ) -> tuple[Longs, Codes]:
        """Retrieve candidates.

        Args:
            query: the users' tastes: (R, K).
            time: (R,), ascending; less than the items' lifetime apart.
            clicks: (R, G), the user's clicks by category before the day.

        Returns distinct items (R, C) and their channels (R, C).
        """
        first, live = self.items.live(time)
        popular, taste, category, fresh = self.quotas
        drawn = self._popular(rng, first, live, popular + category)
        proposals = np.concatenate(
            [
                drawn[:, :popular],
                self._taste(rng, query, (int(first[-1]), int(live[0])), taste),
                self._category(rng, clicks, (first, live), drawn[:, popular:]),
                self._fresh(rng, time, (first, live), fresh),
                self._random(rng, first, live),
            ],
            axis=1,
        )
        slot = first_distinct(proposals, self.candidates)
        return np.take_along_axis(proposals, slot, axis=1), self.channel_of_slot[slot]

    def _popular(self, rng: np.random.Generator, first: Longs, live: Longs, n: int) -> Longs:
        gone = np.where(first > 0, self.popularity[first - 1], 0.0)[:, None]
        mass = gone + rng.random((len(live), n)) * (self.popularity[live - 1][:, None] - gone)
        # a sum that is rounded down would be that of the last item removed
        return np.asarray(np.maximum(np.searchsorted(self.popularity, mass), first[:, None]))

    def _taste(self, rng: np.random.Generator, query: Floats, live: tuple[int, int], n: int) -> Longs:
        """The items nearest to a noisy estimate of the user's taste, in a part of the catalogue: (R, n).

        Args:
            live: the items that exist for all requests: the first, and the last and one.
        """
        first, end = live
        size = min(end - first, max(_INDEX, self.candidates))
        index = first + rng.choice(end - first, size, replace=False, shuffle=False)
        query = query + rng.standard_normal(query.shape, dtype=np.float32)
        near = np.argpartition(query @ -self.items.taste[index].T, n, axis=1)[:, :n]
        return np.asarray(index[near])

    def _category(
        self, rng: np.random.Generator, clicks: Ints, live: tuple[Longs, Longs], otherwise: Longs
    ) -> Longs:
        """Random items of categories that the user has clicked: (R, n); `otherwise` (R, n) if there are none yet."""
        total = np.cumsum(clicks, axis=1)
        drawn = rng.random(otherwise.shape) * total[:, -1:]
        category = (drawn[:, :, None] >= total[:, None, :]).sum(2).clip(max=CATEGORIES - 1)
        begin = np.searchsorted(self.category_key, self._key(category, live[0][:, None]))
        end = np.searchsorted(self.category_key, self._key(category, live[1][:, None]))
        index = begin + (rng.random(otherwise.shape) * (end - begin)).astype(np.int64)
        known = (total[:, -1:] > 0) & (end > begin)
        return np.where(known, self.by_category[np.where(known, index, 0)], otherwise)

    def _fresh(self, rng: np.random.Generator, time: Longs, live: tuple[Longs, Longs], n: int) -> Longs:
        """Random items published within two days, at least the newest: (R, n)."""
        first, end = live
        since = np.minimum(np.searchsorted(self.items.published, time - 2 * DAY), end - 1)
        since = np.maximum(since, first)
        return since[:, None] + (rng.random((len(end), n)) * (end - since)[:, None]).astype(np.int64)

    def _random(self, rng: np.random.Generator, first: Longs, end: Longs) -> Longs:
        """C distinct items: every step-th item of the catalogue from a random start: (R, C)."""
        live = end - first
        step = 1 + rng.integers(live // self.candidates)
        start = rng.integers(live)
        slot = (start[:, None] + step[:, None] * np.arange(self.candidates)) % live[:, None]
        return np.asarray(first[:, None] + slot)


def first_distinct(proposals: Longs, n: int) -> Longs:
    """The first n slots (R, n) of each row of (R, P) that do not repeat the value of an earlier slot."""
    width = proposals.shape[1]
    value, slot = np.divmod(np.sort(proposals * width + np.arange(width), axis=1), width)
    slot[:, 1:][value[:, 1:] == value[:, :-1]] = width
    return np.sort(slot, axis=1)[:, :n]


def funnel(world: World, prerank: Floats, rank: Floats) -> tuple[Codes, Codes]:
    """Cut by the scores (R, C) of two stages. Returns levels (R, C), and positions (R, C) from 1, 0 if not exposed."""
    level = np.full(prerank.shape, RETRIEVED, dtype=np.int8)
    position = np.zeros(prerank.shape, dtype=np.int16)
    kept = np.argpartition(-prerank, world.preranked - 1, axis=1)[:, : world.preranked]
    order = np.argsort(-np.take_along_axis(rank, kept, axis=1), axis=1, kind="stable")
    kept = np.take_along_axis(kept, order, axis=1)
    np.put_along_axis(level, kept, PRERANKED, axis=1)
    np.put_along_axis(level, kept[:, : world.ranked], RANKED, axis=1)
    np.put_along_axis(level, kept[:, : world.shown], EXPOSED, axis=1)
    np.put_along_axis(position, kept[:, : world.shown], np.arange(1, world.shown + 1)[None], axis=1)
    return level, position


def examination(position: Codes) -> Floats:
    """The probability that a user looks at a position, from 1: position^-0.4."""
    return np.asarray(np.maximum(position, 1).astype(np.float32) ** np.float32(-0.4))

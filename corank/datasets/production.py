"""A simulated production: channels that retrieve, two models that cut, and the page that shows what is left.

Letters: R requests · C candidates of a request · P proposals for them · I items · K tastes · G categories.
"""

from dataclasses import dataclass

import numpy as np

from corank.core.types import Floats, Ints, Longs
from corank.datasets.world import CATEGORIES, DAY, TASTES, Codes, Items, Users, World, affinity

CHANNELS = ("popular", "taste", "category", "fresh", "random")
QUOTAS = (0.25, 0.35, 0.2, 0.1)
"""Shares of the candidates that all channels but the last may give; random ones replace repetitions."""

RETRIEVED, PRERANKED, RANKED, EXPOSED = range(4)

_INDEX = 2048  # items that a taste search looks at: an approximate index sees a part of the catalogue


@dataclass(frozen=True)
class Stage:
    """A production model: score = a · true logit + b · error + offset.

    Half of the error's variance is the item's, half a misreading of taste × item. It is a fixed property of
    user and item, so production errs in the same way again and again.
    """

    item: Floats  # (I,)
    taste: Floats  # (I, K)
    a: float = 1.0
    b: float = 0.0
    offset: float = 0.0

    def error(self, query: Floats, item: Longs) -> Floats:
        return self.item[item] + affinity(query, self.taste, item)

    def score(self, logit: Floats, error: Floats) -> Floats:
        return np.float32(self.a) * logit + np.float32(self.b) * error + np.float32(self.offset)

    def fitted(self, logit: Floats, error: Floats, correlation: float) -> "Stage":
        """Of unit variance and the given correlation with the logit on these candidates."""
        slope = float(np.polyfit(logit.ravel(), error.ravel(), 1)[0])
        b = np.sqrt(1 - correlation**2) / float(np.std(error - slope * logit))
        a = correlation / float(np.std(logit)) - b * slope
        offset = -float(np.mean(a * logit + b * error))
        return Stage(self.item, self.taste, a, b, offset)


def draw_stages(rng: np.random.Generator, items: int) -> tuple[Stage, Stage]:
    """Pre-ranker and ranker; half of the variance of their errors is common, as they learn from one log."""

    def errors() -> Floats:
        return rng.standard_normal((items, 1 + TASTES), dtype=np.float32)

    common = errors()
    prerank, rank = (np.float32(0.5**0.5) * (common + errors()) for _ in range(2))
    return Stage(prerank[:, 0], prerank[:, 1:]), Stage(rank[:, 0], rank[:, 1:])


class Retrieval:
    """The channels. They see the catalogue as of the request, and clicks as of the day's beginning."""

    def __init__(self, world: World, users: Users, items: Items) -> None:
        self.candidates = world.candidates
        self.users, self.items = users, items
        self.quotas = [int(share * world.candidates) for share in QUOTAS]
        self.channel_of_slot = np.repeat(np.arange(len(CHANNELS)), [*self.quotas, world.candidates])
        self.popularity = np.cumsum(self.items.popularity)
        self.by_category = np.argsort(self.items.category, kind="stable")
        self.category_key = self._key(self.items.category[self.by_category], self.by_category)

    def _key(self, category: Codes, item: Codes) -> Longs:
        return np.asarray(category * len(self.items.published) + item, dtype=np.int64)

    def __call__(
        self, rng: np.random.Generator, user: Codes, time: Longs, clicks: Ints
    ) -> tuple[Longs, Codes]:
        """Distinct items (R, C) and their channels (R, C) for users (R,) at times (R,) in order.

        `clicks` (R, G) are those of the user, by category, before the day.
        """
        live = np.searchsorted(self.items.published, time)
        popular, taste, category, fresh = self.quotas
        drawn = self._popular(rng, live, popular + category)
        proposals = np.concatenate(
            [
                drawn[:, :popular],
                self._taste(rng, user, live, taste),
                self._category(rng, clicks, live, drawn[:, popular:]),
                self._fresh(rng, time, live, fresh),
                self._random(rng, live),
            ],
            axis=1,
        )
        slot = first_distinct(proposals, self.candidates)
        return np.take_along_axis(proposals, slot, axis=1), self.channel_of_slot[slot]

    def _popular(self, rng: np.random.Generator, live: Longs, n: int) -> Longs:
        mass = rng.random((len(live), n)) * self.popularity[live - 1][:, None]
        return np.searchsorted(self.popularity, mass)

    def _taste(self, rng: np.random.Generator, user: Codes, live: Longs, n: int) -> Longs:
        """The nearest to a noisy reading of the user's taste, among a part of the catalogue."""
        size = min(int(live[0]), max(_INDEX, self.candidates))
        index = rng.choice(live[0], size, replace=False, shuffle=False)
        query = self.users.taste[user]
        query = query + rng.standard_normal(query.shape, dtype=np.float32)
        near = np.argpartition(query @ -self.items.taste[index].T, n, axis=1)[:, :n]
        return np.asarray(index[near])

    def _category(self, rng: np.random.Generator, clicks: Ints, live: Longs, otherwise: Longs) -> Longs:
        """Any item of a category the user has clicked; `otherwise` (R, n) where there is none yet."""
        total = np.cumsum(clicks, axis=1)
        drawn = rng.random(otherwise.shape) * total[:, -1:]
        category = (drawn[:, :, None] >= total[:, None, :]).sum(2).clip(max=CATEGORIES - 1)
        begin = np.searchsorted(self.category_key, self._key(category, np.zeros(1, np.int64)))
        end = np.searchsorted(self.category_key, self._key(category, live[:, None]))
        place = begin + (rng.random(otherwise.shape) * (end - begin)).astype(np.int64)
        known = (total[:, -1:] > 0) & (end > begin)
        return np.where(known, self.by_category[np.where(known, place, 0)], otherwise)

    def _fresh(self, rng: np.random.Generator, time: Longs, live: Longs, n: int) -> Longs:
        """Published within two days, the newest item at least."""
        since = np.minimum(np.searchsorted(self.items.published, time - 2 * DAY), live - 1)
        return since[:, None] + (rng.random((len(live), n)) * (live - since)[:, None]).astype(np.int64)

    def _random(self, rng: np.random.Generator, live: Longs) -> Longs:
        """As many distinct items as there are candidates: every so manyth of the catalogue, from anywhere."""
        step = 1 + rng.integers(live // self.candidates)
        start = rng.integers(live)
        return (start[:, None] + step[:, None] * np.arange(self.candidates)) % live[:, None]


def first_distinct(proposals: Longs, n: int) -> Longs:
    """The first n slots (R, n) of each row of (R, P) that do not repeat the value of an earlier slot."""
    width = proposals.shape[1]
    value, slot = np.divmod(np.sort(proposals * width + np.arange(width), axis=1), width)
    slot[:, 1:][value[:, 1:] == value[:, :-1]] = width
    return np.sort(slot, axis=1)[:, :n]


def funnel(world: World, prerank: Floats, rank: Floats) -> tuple[Codes, Codes]:
    """Level (R, C) and, where exposed, position from 1 (0 elsewhere), by the scores (R, C) of two stages."""
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
    """The probability that what stands at a position, from 1, is looked at: position^-0.4."""
    return np.asarray(np.maximum(position, 1).astype(np.float32) ** np.float32(-0.4))

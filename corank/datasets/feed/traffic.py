"""The traffic of a simulated world: requests arrive, production answers them, users click what they see and like.

Letters: R requests · C candidates of a request · U users · I items · K tastes · G categories · S intents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from corank.core.extras import DeferredModule
from corank.core.types import Floats, Ints, Longs, Mask
from corank.datasets.feed.presets import PRESETS
from corank.datasets.feed.production import (
    EXPOSED,
    ProductionStage,
    SimulatedRetrieval,
    draw_stages,
    examination,
    funnel,
)
from corank.datasets.feed.world import (
    CATEGORIES,
    DAY,
    DAYS,
    DEVICES,
    INTENTS,
    TABS,
    Codes,
    SimulatedItems,
    Users,
    World,
    affinity,
)

optimize = DeferredModule("train", "scipy.optimize", "corank simulate")
special = DeferredModule("train", "scipy.special", "corank simulate")

RANDOM_TRAFFIC = 0.02
"""Share of the requests whose candidates are cut at random."""
BID_SPREAD, BID_NOISE = 0.6, 0.3
"""Standard deviation of log bids: between items, and between requests."""
CLICK_RATE = 0.15
"""Share of exposed candidates that are clicked, in every preset: presets differ in what production knows alone."""

_BLOCK = 2**18  # candidates simulated at once, which bounds memory
_PILOT = 512  # requests on which production is fitted to the preset


@dataclass(frozen=True)
class SimulatedRequests:
    """Requests in the order of time."""

    user: Codes  # (R,)
    time: Longs  # (R,) microseconds from FIRST_DAY
    tab: Codes  # (R,)
    device: Codes  # (R,)
    intent: Codes  # (R,) never logged
    random: Mask  # (R,) cut at random

    def __len__(self) -> int:
        return len(self.user)

    @property
    def hour(self) -> Longs:
        """Hour of the day: (R,)."""
        return self.time % DAY // (DAY // 24)

    @property
    def day(self) -> Longs:
        """Day of the world, from 0: (R,)."""
        return self.time // DAY

    def __getitem__(self, part: slice) -> "SimulatedRequests":
        return SimulatedRequests(
            user=self.user[part],
            time=self.time[part],
            tab=self.tab[part],
            device=self.device[part],
            intent=self.intent[part],
            random=self.random[part],
        )

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, users: Users) -> Self:
        """Draw n requests: active users and evenings have more; a user has none before joining."""
        user = rng.choice(len(users.share), n, p=users.share)
        day = users.joined[user] + rng.integers(DAYS - users.joined[user])
        hours = np.arange(24)
        busy = 0.3 + np.exp(-(((hours - 20) / 3) ** 2)) + 0.5 * np.exp(-(((hours - 12) / 2) ** 2))
        hour = rng.choice(24, n, p=busy / busy.sum())
        time = day * DAY + hour * (DAY // 24) + rng.integers(DAY // 24, size=n)
        order = np.argsort(time, kind="stable")
        usual = rng.random(n) < 0.85
        device = np.where(usual, users.device[user], rng.integers(len(DEVICES), size=n))
        return cls(
            user=user[order],
            time=time[order],
            tab=rng.choice(len(TABS), n, p=(0.6, 0.2, 0.1, 0.1)),
            device=device[order],
            intent=rng.integers(INTENTS, size=n),
            random=rng.random(n) < RANDOM_TRAFFIC,
        )


@dataclass(frozen=True)
class Reality:
    """The true logit of a click, without the constant that sets the click rate."""

    users: Users
    items: SimulatedItems
    tab: Floats  # (tabs, G)
    device: Floats  # (devices, G)
    daytime: Floats  # (4, G), by six hours
    intent: Floats  # (S, I), averages to zero over intents

    @classmethod
    def draw(cls, world: World, rng: np.random.Generator) -> Self:
        """Draw users, items and effects of a world."""

        def effect(n: int, main: float, cross: float) -> Floats:
            table = main * rng.standard_normal((n, 1)) + cross * rng.standard_normal((n, CATEGORIES))
            return table.astype(np.float32)

        intent = rng.standard_normal((INTENTS, world.items), dtype=np.float32)
        scale = PRESETS[world.preset].hidden * np.sqrt(INTENTS / (INTENTS - 1))
        return cls(
            users=Users.draw(rng, world.users),
            items=SimulatedItems.draw(rng, world.items),
            tab=effect(len(TABS), 0.2, 0.3),
            device=effect(len(DEVICES), 0.1, 0.15),
            daytime=effect(4, 0.15, 0.2),
            intent=np.float32(scale) * (intent - intent.mean(0)),
        )

    def logit(self, requests: SimulatedRequests, item: Longs) -> Floats:
        """The true logit of items (R, C): (R, C)."""
        by_category = self.tab[requests.tab] + self.device[requests.device] + self.daytime[requests.hour // 6]
        by_category += self.users.bias[requests.user][:, None]
        taste = affinity(self.users.taste[requests.user], self.items.taste, item)
        logit = np.take_along_axis(by_category, self.items.category[item], axis=1)
        logit += np.float32(0.9) * taste + self.items.bias[item] + self.intent[requests.intent[:, None], item]
        return logit


@dataclass(frozen=True)
class Block:
    """Requests of one day with their candidates, each (R, C)."""

    requests: SimulatedRequests
    item: Longs
    channel: Codes
    category_clicks: Ints
    level: Codes
    position: Codes
    click: Mask
    prerank: Floats
    rank: Floats
    truth: Floats
    bid: Floats | None
    """What a click pays; None without an auction."""


class Traffic:
    """All requests of a world, in the order of time."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = np.random.default_rng([world.seed, 0])
        self.reality = Reality.draw(world, rng)
        stages = draw_stages(rng, world.items)
        self.requests = SimulatedRequests.draw(rng, world.requests, self.reality.users)
        self.retrieval = SimulatedRetrieval(world, self.reality.users, self.reality.items)
        self.prerank, self.rank, self.constant = self._pilot(rng, stages)
        # a generator of its own, so that a world without an auction does not change
        self.bid_rng = np.random.default_rng([world.seed, 2])
        self.bid = self.bid_rng.lognormal(0.0, BID_SPREAD, world.items).astype(np.float32)

    def _pilot(
        self, rng: np.random.Generator, stages: tuple[ProductionStage, ProductionStage]
    ) -> tuple[ProductionStage, ProductionStage, float]:
        """Fit both stages to the preset's correlation, and the logit's constant to CLICK_RATE."""
        requests = SimulatedRequests.draw(rng, _PILOT, self.reality.users)
        item, _ = self.retrieval(
            rng, requests.user, requests.time, np.zeros((_PILOT, CATEGORIES), dtype=np.int32)
        )
        logit = self.reality.logit(requests, item)
        query = self.reality.users.taste[requests.user]
        correlation = PRESETS[self.world.preset].correlation
        errors = [stage.error(query, item) for stage in stages]
        fitted = [s.fit(logit, e, correlation) for s, e in zip(stages, errors, strict=True)]
        scores = [s.score(logit, e) for s, e in zip(fitted, errors, strict=True)]
        level, position = funnel(self.world, *scores)
        exposed = level == EXPOSED
        seen, liked = examination(position[exposed]), logit[exposed]
        constant = optimize.brentq(
            lambda c: float(np.mean(seen * special.expit(liked + c))) - CLICK_RATE, -30, 30
        )
        return fitted[0], fitted[1], float(constant)

    def __iter__(self) -> Iterator[Block]:
        rng = np.random.default_rng([self.world.seed, 1])
        clicks = np.zeros((self.world.users, CATEGORIES), dtype=np.int32)
        size = max(1, _BLOCK // self.world.candidates)
        for day in range(DAYS):
            first, end = np.searchsorted(self.requests.day, [day, day + 1])
            today = []
            for start in range(first, end, size):
                block = self._simulate_block(rng, self.requests[start : min(start + size, end)], clicks)
                today.append(self._find_clicks(block))
                yield block
            for user, category in today:
                np.add.at(clicks, (user, category), 1)

    def _find_clicks(self, block: Block) -> tuple[Codes, Codes]:
        request, _ = np.nonzero(block.click)
        return block.requests.user[request], self.reality.items.category[block.item[block.click]]

    def _simulate_block(self, rng: np.random.Generator, requests: SimulatedRequests, clicks: Ints) -> Block:
        clicks = clicks[requests.user]
        item, channel = self.retrieval(rng, requests.user, requests.time, clicks)
        logit = self.reality.logit(requests, item)
        query = self.reality.users.taste[requests.user]
        prerank = self.prerank.score(logit, self.prerank.error(query, item))
        rank = self.rank.score(logit, self.rank.error(query, item))
        shuffle = rng.random(item.shape, dtype=np.float32)
        # random traffic is cut by the shuffle; production's scores are logged in any case
        at_random = requests.random[:, None]
        bid = self._bids(item) if self.world.auction else None
        # value = click rate · bid; the log-odds of rare clicks are about the log of their rate
        log_bid = np.float32(0) if bid is None else np.log(bid)
        level, position = funnel(
            self.world,
            np.where(at_random, shuffle, prerank + log_bid),
            np.where(at_random, shuffle, rank + log_bid),
        )
        truth = np.asarray(special.expit(logit + np.float32(self.constant)))
        seen = (level == EXPOSED) & (rng.random(item.shape, dtype=np.float32) < examination(position))
        return Block(
            requests=requests,
            item=item,
            channel=channel,
            category_clicks=np.take_along_axis(clicks, self.reality.items.category[item], axis=1),
            level=level,
            position=position,
            click=seen & (rng.random(item.shape, dtype=np.float32) < truth),
            prerank=prerank,
            rank=rank,
            truth=truth,
            bid=bid,
        )

    def _bids(self, item: Longs) -> Floats:
        """Draw the bids of items (R, C): (R, C)."""
        noise = self.bid_rng.lognormal(0.0, BID_NOISE, item.shape)
        return np.asarray(np.round(self.bid[item] * noise, 4) + np.float32(1e-4), dtype=np.float32)

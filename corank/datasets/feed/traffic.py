"""The traffic of a simulated world: requests arrive, production answers them, users click what they see and like.

Letters: R requests · C candidates of a request · U users · I items · K tastes · G categories · S intents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from corank.core.lazy import lazy
from corank.core.types import Floats, Ints, Longs, Mask
from corank.datasets.feed.production import (
    EXPOSED,
    ProductionStage,
    SimulatedRetrieval,
    draw_stages,
    examination,
    funnel,
)
from corank.datasets.feed.reality import Reality, SimulatedRequests
from corank.datasets.feed.world import (
    CATEGORIES,
    DAY,
    PRESETS,
    Codes,
    World,
)

optimize = lazy("scipy.optimize", "corank simulate")
special = lazy("scipy.special", "corank simulate")

BID_SPREAD, BID_NOISE = 0.6, 0.3
"""Standard deviation of log bids: between items, and between requests."""
CLICK_RATE = 0.15
"""Share of exposed candidates that are clicked, in every preset: presets differ in what production knows alone."""

_BLOCK = 2**18  # candidates simulated at once, which bounds memory
_PILOT = 512  # requests on which production is fitted to the preset


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
    """The price of a click; None without an auction."""


class Traffic:
    """All requests of a world, in the order of time."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = np.random.default_rng([world.seed, 0])
        self.reality = Reality.draw(world, rng)
        stages = draw_stages(rng, world.catalogue)
        self.requests = SimulatedRequests.draw(
            rng, world.requests, self.reality.users, world.days, world.random
        )
        self.retrieval = SimulatedRetrieval(world, self.reality.items)
        self.prerank, self.rank, self.constant = self._pilot(rng, stages)
        # a generator of its own, so that a world without an auction does not change
        self.bid_rng = np.random.default_rng([world.seed, 2])
        self.bid = self.bid_rng.lognormal(0.0, BID_SPREAD, world.catalogue).astype(np.float32)

    def _pilot(
        self, rng: np.random.Generator, stages: tuple[ProductionStage, ProductionStage]
    ) -> tuple[ProductionStage, ProductionStage, float]:
        """Fit both stages to the preset's correlation, and the logit's constant to CLICK_RATE."""
        requests = SimulatedRequests.draw(rng, _PILOT, self.reality.users, self.world.days)
        if self.world.drift is not None:  # of the first day, since reality is that of the first day
            requests = replace(requests, time=np.sort(requests.time % DAY))
        query = self.reality.users.taste[requests.user]
        item, _ = self.retrieval(rng, query, requests.time, np.zeros((_PILOT, CATEGORIES), dtype=np.int32))
        logit = self.reality.logit(requests, item)
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
        for day, reality in enumerate(self.realities()):
            first, end = np.searchsorted(self.requests.day, [day, day + 1])
            today = []
            for start in range(first, end, size):
                block = self._simulate_block(
                    rng, reality, self.requests[start : min(start + size, end)], clicks
                )
                today.append(self._find_clicks(block))
                yield block
            for user, category in today:
                np.add.at(clicks, (user, category), 1)

    def realities(self) -> Iterator[Reality]:
        """Reality day by day."""
        reality = self.reality
        rng = np.random.default_rng([self.world.seed, 3])  # its own, as that of bids
        for day in range(self.world.days):
            if day and self.world.drift is not None:
                reality = reality.walk(rng, self.world.drift.walk)
            yield reality

    def _find_clicks(self, block: Block) -> tuple[Codes, Codes]:
        request, _ = np.nonzero(block.click)
        return block.requests.user[request], self.reality.items.category[block.item[block.click]]

    def _simulate_block(
        self, rng: np.random.Generator, reality: Reality, requests: SimulatedRequests, clicks: Ints
    ) -> Block:
        clicks = clicks[requests.user]
        query = reality.users.taste[requests.user]
        item, channel = self.retrieval(rng, query, requests.time, clicks)
        logit = reality.logit(requests, item)
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
        truth = np.asarray(special.expit(logit + np.float32(self.constant + reality.base)))
        tired = self._tire(item, position) if self.world.satiation is not None else np.float32(1)
        seen = (level == EXPOSED) & (rng.random(item.shape, dtype=np.float32) < examination(position))
        return Block(
            requests=requests,
            item=item,
            channel=channel,
            category_clicks=np.take_along_axis(clicks, self.reality.items.category[item], axis=1),
            level=level,
            position=position,
            click=seen & (rng.random(item.shape, dtype=np.float32) < truth * tired),
            prerank=prerank,
            rank=rank,
            truth=truth,
            bid=bid,
        )

    def _tire(self, item: Longs, position: Codes) -> Floats:
        """What is left of click probabilities below others of the same category, 1 where nothing is shown: (R, C)."""
        left, shown = np.ones(item.shape, dtype=np.float32), self.world.shown
        order = np.argsort(np.where(position > 0, position, np.iinfo(np.int16).max), axis=1, kind="stable")[
            :, :shown
        ]
        category = self.reality.items.category[np.take_along_axis(item, order, axis=1)]
        above = np.tril(category[:, :, None] == category[:, None, :], -1).sum(2)
        np.put_along_axis(
            left, order, np.float32(1 - (self.world.satiation or 0)) ** above.astype(np.float32), axis=1
        )
        return left

    def _bids(self, item: Longs) -> Floats:
        """Draw the bids of items (R, C): (R, C)."""
        noise = self.bid_rng.lognormal(0.0, BID_NOISE, item.shape)
        return np.asarray(np.round(self.bid[item] * noise, 4) + np.float32(1e-4), dtype=np.float32)

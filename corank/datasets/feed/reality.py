"""The law of requests and clicks: who comes when, and how much one likes what, from day to day if the world drifts.

Letters: R requests · C candidates of a request · U users · I items · K tastes · G categories · S intents.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from corank.core.types import Floats, Longs, Mask
from corank.datasets.feed.world import (
    CATEGORIES,
    DAY,
    DEVICES,
    INTENTS,
    PRESETS,
    TABS,
    Codes,
    SimulatedItems,
    Users,
    World,
    affinity,
    move,
)

RANDOM_TRAFFIC = 0.02
"""Share of the requests whose candidates are cut at random."""
BASE_STEP = 0.25
"""Standard deviation of a day's change of the base rate's logit, of a walk of 1."""


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
        return SimulatedRequests(**{name: values[part] for name, values in vars(self).items()})

    @classmethod
    def draw(
        cls, rng: np.random.Generator, n: int, users: Users, days: int, random: float | None = None
    ) -> Self:
        """Draw n requests of some days: active users and evenings have more; a user has none before joining.

        `random` is the share that is cut at random, RANDOM_TRAFFIC by default.
        """
        user = rng.choice(len(users.share), n, p=users.share)
        day = users.joined[user] + rng.integers(days - users.joined[user])
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
            random=rng.random(n) < (RANDOM_TRAFFIC if random is None else random),
        )


@dataclass(frozen=True)
class Reality:
    """The true logit of a click, without the constant that sets the click rate, and without its drift, `base`."""

    users: Users
    items: SimulatedItems
    tab: Floats  # (tabs, G)
    device: Floats  # (devices, G)
    daytime: Floats  # (4, G), by six hours
    intent: Floats  # (S, I), averages to zero over intents
    base: float = 0.0
    """The change of the constant since the first day."""

    @classmethod
    def draw(cls, world: World, rng: np.random.Generator) -> Self:
        """Draw users, items and effects of a world."""
        intent = rng.standard_normal((INTENTS, world.catalogue), dtype=np.float32)
        scale = PRESETS[world.preset].hidden * np.sqrt(INTENTS / (INTENTS - 1))
        users = Users.draw(rng, world.users, world.days, world.interests)
        items = SimulatedItems.draw(rng, world)
        tab, device, daytime = _draw_effects(rng)
        return cls(
            users=users,
            items=items,
            tab=tab,
            device=device,
            daytime=daytime,
            intent=np.float32(scale) * (intent - intent.mean(0)),
        )

    def walk(self, rng: np.random.Generator, step: float) -> Self:
        """The world a day later: tastes, effects of the context and the base rate have moved by a step, `Drift.walk`.

        A walk of .2 a day changes the base rate's logit by .05, one standard deviation.
        """
        users = self.users.walk(rng, step)
        tab, device, daytime = _draw_effects(rng)
        base = self.base + BASE_STEP * step * float(rng.standard_normal())
        return replace(
            self,
            users=users,
            tab=move(self.tab, tab, step),
            device=move(self.device, device, step),
            daytime=move(self.daytime, daytime, step),
            base=base,
        )

    def logit(self, requests: SimulatedRequests, item: Longs) -> Floats:
        """The true logit of items (R, C): (R, C)."""
        by_category = self.tab[requests.tab] + self.device[requests.device] + self.daytime[requests.hour // 6]
        by_category += self.users.bias[requests.user][:, None]
        taste = affinity(self.users.taste[requests.user], self.items.taste, item)
        for other in self.users.others:
            taste = np.maximum(taste, affinity(other[requests.user], self.items.taste, item))
        logit = np.take_along_axis(by_category, self.items.category[item], axis=1)
        logit += np.float32(0.9) * taste + self.items.bias[item] + self.intent[requests.intent[:, None], item]
        return logit


def _draw_effects(rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Draw the effects of tab, device and six hours of the day on each category."""

    def effect(n: int, main: float, cross: float) -> Floats:
        table = main * rng.standard_normal((n, 1)) + cross * rng.standard_normal((n, CATEGORIES))
        return table.astype(np.float32)

    return effect(len(TABS), 0.2, 0.3), effect(len(DEVICES), 0.1, 0.15), effect(4, 0.15, 0.2)

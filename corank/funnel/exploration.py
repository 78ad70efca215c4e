"""Pages that are drawn in place of the ranked one, so that the log can judge what it would never have shown.

Letters: n candidates of a request · a of them that may be drawn.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf
from typing import NamedTuple, Self

import numpy as np

from corank.core.inclusion import inclusion_probabilities
from corank.core.ordering import top_k
from corank.core.page import Page
from corank.core.types import Doubles, Longs
from corank.features.log_schema import DataSettings
from corank.funnel.request import Request

LEAST = 1e-30
"""Propensities below count as this: 32-bit floats hold it, and its inverse."""
DRAWS, MOST = 5, 20
"""Under rules: pages by which propensities are estimated, so many times candidates a slot; and candidates a slot, at
most."""

Fill = Callable[[Doubles, int], Page]
"""Values of candidates and a number of slots → the page that rules leave."""


@dataclass(frozen=True)
class Draw:
    """How the page of one request is drawn. As text it is what answers and logs have, and all that a replay needs."""

    seed: int
    """Below 2^64."""
    temperature: float | None = None
    """Of the last stage's value, in its units; None: uniform, from all candidates."""

    def __str__(self) -> str:
        how = "uniform" if self.temperature is None else f"softened@{self.temperature!r}"
        return f"{how}:{self.seed:016x}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes. Raises ValueError."""
        how, colon, seed = text.partition(":")
        name, _, temperature = how.partition("@")
        if not colon or name != ("softened" if temperature else "uniform"):
            raise ValueError(f"expected uniform:SEED or softened@TEMPERATURE:SEED; received {text!r:.100}")
        degrees = float(temperature) if temperature else None
        if degrees is not None and not 0 < degrees < inf:
            raise ValueError(f"expected a temperature above 0; received {temperature!r:.100}")
        return cls(int(seed, 16), degrees)

    def choose(
        self, logits: Doubles, slots: int, fill_of: Callable[[Longs], Fill] | None
    ) -> tuple[Longs, Doubles]:
        """Draw candidates for the slots of a page, and compute at what probability each one is on it.

        Without rules a page has the greatest of `logit + Gumbel noise`, and the probability is exact, as
        `inclusion_probabilities`. Under rules it is estimated by M further pages: (c + 1) / (M + 1) for a candidate
        on this page that is on c of them. Its inverse, by which a click counts, is right up to a factor of
        1 − (1 − π)^(M + 1), since c is binomial. Of more than `MOST` candidates a slot so many are first drawn evenly,
        and the probability to be among them counts, too; it is that of others, which this page could not have, times
        their mean on it.

        Args:
            logits: logarithms of the weights: (a,).
            slots: of the page.
            fill_of: gives what fills it from some of them under rules; None without.

        Returns:
            The candidates, slot by slot, and the probabilities; NaN for one that no draw had: (a,).
        """
        rng, a = np.random.default_rng(self.seed), len(logits)
        noisy = logits + rng.gumbel(size=a)
        if fill_of is None or not a:
            return top_k(noisy, slots), np.maximum(inclusion_probabilities(logits, slots), LEAST)
        n = min(a, MOST * slots)
        among = np.arange(a) if n == a else np.sort(rng.choice(a, n, replace=False))
        fill, weights, counts = fill_of(among), logits[among], np.zeros(n)
        shown = fill(noisy[among], slots).slots
        counts[shown] += 1
        draws = ceil(DRAWS * n / slots)
        for _ in range(draws):
            counts[fill(weights + rng.gumbel(size=n), slots).slots] += 1
        chance = np.full(a, min(1.0, slots / a))
        chance[among] = np.where(counts > 0, counts / (draws + 1) * (n / a), np.nan)
        return among[shown], chance


class DrawnPage(NamedTuple):
    """The drawn page of one request."""

    shown: Longs
    """The candidates of the request that are on it, slot by slot."""
    propensity: Doubles
    """At what probability each candidate is on the page; NaN for one that cannot be, or was never drawn: (n,)."""


def request_id(request: Request, data: DataSettings) -> bytes:
    """What names a request, alike each time that it is sent: the values of `data.request`, if it has all of them.

    Else it is its user and its time; and random bytes, if it does not say its time either.
    """
    said = request.context | request.user | {data.user: request.user.get("id"), data.time: request.time}
    for names in (data.request, [data.user, data.time]):
        values = [said.get(name) for name in names]
        if None not in values:
            return json.dumps(values).encode()
    return os.urandom(16)

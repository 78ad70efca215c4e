"""What users of a simulated world do outside of its funnel: they find items by themselves, and act on them.

An item is found in proportion to how well it is known on that path, and acted on by the user's true taste for it.
"""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.types import Floats
from corank.datasets.feed.traffic import Block
from corank.datasets.feed.world import DAY, FIRST_DAY, World, instants

REACH = 3
"""Days after a request within which its user acts on its candidates by another path."""


class Organic:
    """Draws the events of a world, block by block, and writes them, a file a day.

    A candidate's user acts on it within REACH days with the probability `organic` · awareness of the item · its true
    click probability, at a time that is drawn evenly.
    """

    def __init__(self, world: World) -> None:
        assert world.organic is not None
        self.rate, self.rng = (
            world.organic,
            np.random.default_rng([world.seed, 4]),
        )  # its own, as that of bids
        known = self.rng.lognormal(0.0, world.awareness, world.catalogue)
        self.awareness: Floats = (known / known.mean()).astype(np.float32)
        self.events: list[pl.DataFrame] = []

    def add(self, block: Block) -> None:
        """Draw the events of a block."""
        chance = np.float32(self.rate) * self.awareness[block.item] * block.truth
        request, candidate = np.nonzero(self.rng.random(chance.shape, dtype=np.float32) < chance)
        after = self.rng.integers(1, REACH * DAY, len(request))
        columns = {
            "user_id": block.requests.user[request],
            "item_id": block.item[request, candidate],
            "time": instants(block.requests.time[request] + after),
        }
        self.events.append(pl.DataFrame(columns).with_columns(kind=pl.lit("order")))

    def write(self, folder: Path, days: int) -> None:
        """Write the events of all blocks: a file a day, also of a day without any, until REACH days after the log."""
        events = pl.concat(self.events).sort("time", "user_id", "item_id")
        day = pl.col("time").dt.date()
        for n in range(days + REACH):
            date = FIRST_DAY.date() + timedelta(days=n)
            events.filter(day == date).write_parquet(folder / f"{date}.parquet")

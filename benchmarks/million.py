"""The funnel that benchmarks of serving share: 1,000 → 100 → 10 candidates, a bundle with a million items, requests.

It is made in about half a minute, and kept if a folder is given. Items that the log lacks have new ids, the attributes
of items of the log, and their own prices and freshness, so that no two items have the same score.
"""

import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import corank
from corank.bundle.bundle import Bundle
from corank.bundle.content import read_vectors
from corank.core.errors import BundleError
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.world import DEVICES, TABS

ITEMS, CANDIDATES, HISTORY = 1_000_000, 1_000, 50
LOGGED = 5_000
"""Items of the log."""


@dataclass(frozen=True)
class Million:
    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> str:
        return str(self.folder / "log" / "*.parquet")

    @property
    def items(self) -> Path:
        """Their table, as the bundle has them."""
        return self.folder / "catalogue.parquet"

    def made(self) -> bool:
        """Whether the bundle is there, whole, of this corank's format and of all items."""
        try:
            bundle = Bundle.open(self.bundle)
        except BundleError:
            return False
        return all(len(held) == ITEMS for held in read_vectors(bundle.folder, bundle.manifest).values())

    def make(self) -> None:
        simulate_world(self.folder, requests=3_000, items=LOGGED, overwrite=True)
        config = self.folder / "config.yaml"
        text = re.sub(r"\n +#.*\n +category_clicks:.*", "", config.read_text(encoding="utf-8"))
        config.write_text(
            text.replace("keep: 50", "keep: 100").replace("epochs: 2", "epochs: 1"), encoding="utf-8"
        )
        corank.pack(config)  # anew: an earlier packing may be of another format
        corank.train(config, overwrite=True, folder=self.run)
        corank.export(self.run, self.bundle)
        self._write_items()
        corank.refresh(self.bundle, self.log, str(self.items))

    def _write_items(self) -> None:
        logged = pl.read_parquet(self.folder / "items.parquet")
        rng, new = np.random.default_rng(0), ITEMS - len(logged)
        like = logged[rng.integers(len(logged), size=new)]
        more = like.with_columns(
            item_id=pl.Series(np.arange(len(logged), ITEMS)),
            price=like["price"] * rng.uniform(0.8, 1.25, new),
            freshness=like["freshness"] * rng.uniform(0.8, 1.25, new),
        )
        pl.concat([logged, more]).write_parquet(self.items)

    def requests(self, count: int, seed: int = 0) -> list[dict[str, Any]]:
        """REQUEST.json of random users, histories of the log's items, and candidates of all."""
        rng = random.Random(seed)
        users = pl.read_parquet(self.folder / "users.parquet").rename({"user_id": "id"}).to_dicts()
        return [
            {
                "user": rng.choice(users) | {"history": rng.sample(range(LOGGED), HISTORY)},
                "context": {
                    "tab": rng.choice(TABS),
                    "hour": rng.randrange(24),
                    "device": rng.choice(DEVICES),
                },
                "candidates": rng.sample(range(ITEMS), CANDIDATES),
            }
            for _ in range(count)
        ]


@contextmanager
def million(folder: Path | None) -> Iterator[Million]:
    """In a folder, where it is made unless it is there; in a temporary one if none is given."""
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as name:
        held = Million(Path(name))
        if not held.made():
            held.make()
        yield held

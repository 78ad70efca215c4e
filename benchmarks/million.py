"""The funnel that benchmarks of serving share: 1,000 → 100 → 10 candidates, a bundle with a million items, requests.

It is made in about half a minute, and kept if a folder is given. Items that the log lacks have new ids, the attributes
of items of the log, and their own prices and freshness, so that no two items have the same score.

There are three: `plain` columns; `text`, the same with texts as ids of items; `features`, those of
examples/features.yaml, which has weighted histories, priors, crosses and attention.
"""

import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

import corank
from benchmarks.checkout import ROOT, Checkout
from corank.bundle.bundle import Bundle
from corank.bundle.content import read_parts
from corank.core.errors import BundleError
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.world import DEVICES, TABS

ITEMS, CANDIDATES, HISTORY = 1_000_000, 1_000, 50
LOGGED = 5_000
"""Items of the log."""
FEATURES = Path(__file__).parents[1] / "examples" / "features.yaml"
HOUR = 3_600_000
"""Milliseconds between two events of a history."""
Kind = Literal["plain", "text", "features"]


def train_alike(code: Checkout, config: Path, run: Path, *changes: str) -> None:
    """Pack and train by a checkout, on one thread: another commit's weights are the same then."""
    code.output("train", config, "--run", run, "--overwrite", *(f"--set={change}" for change in changes))


@dataclass(frozen=True)
class Million:
    folder: Path
    kind: Kind = "plain"

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
        return all(len(part) == ITEMS for part in read_parts(bundle.folder, bundle.manifest).values())

    def make(self) -> None:
        for other in self.folder.glob("bundle-*"):  # of an earlier run
            shutil.rmtree(other)
        simulate_world(self.folder, requests=3_000, items=LOGGED, overwrite=True)
        config = self.folder / "config.yaml"
        text = (FEATURES if self.kind == "features" else config).read_text(encoding="utf-8")
        text = re.sub(r"\n +#.*\n +category_clicks:.*", "", text)
        if self.kind == "text":
            self._rename_items()
            text = re.sub(r"\n +truth:.*", "", text)
        if self.kind == "features":
            # requests bring their candidates
            text = re.sub(r"\nretrieval:.*", "", text).replace(", filter: true", "")
        text = re.sub(r"keep: 50\b", "keep: 100", text).replace("epochs: 2", "epochs: 1")
        config.write_text(text, encoding="utf-8")
        corank.pack(config)  # anew: an earlier packing may be of another format
        train_alike(Checkout(ROOT), config, self.run)
        corank.export(self.run, self.bundle)
        self._write_items()
        corank.refresh(self.bundle, self.log, str(self.items))

    def _write_items(self) -> None:
        logged = pl.read_parquet(self.folder / "items.parquet")
        rng, new = np.random.default_rng(0), ITEMS - len(logged)
        like = logged[rng.integers(len(logged), size=new)]
        more = like.with_columns(
            item_id=pl.Series(list(map(self.item_id, range(len(logged), ITEMS)))),
            price=like["price"] * rng.uniform(0.8, 1.25, new),
            freshness=like["freshness"] * rng.uniform(0.8, 1.25, new),
        )
        pl.concat([logged, more]).write_parquet(self.items)

    def item_id(self, number: int) -> int | str:
        """The id of an item."""
        return f"item-{number}" if self.kind == "text" else number

    def _rename_items(self) -> None:
        """Write the ids of items as texts, in the log and in the table of items."""
        for path in (*(self.folder / "log").glob("*.parquet"), self.folder / "items.parquet"):
            pl.read_parquet(path).with_columns(
                pl.format("item-{}", "item_id").alias("item_id")
            ).write_parquet(path)

    def requests(self, count: int, seed: int = 0, candidates: int = CANDIDATES) -> list[dict[str, Any]]:
        """REQUEST.json of random users, histories of the log's items, and candidates of all."""
        rng = random.Random(seed)
        users = pl.read_parquet(self.folder / "users.parquet").rename({"user_id": "id"}).to_dicts()
        unread, now = {"gender", "device"} if self.kind == "features" else set(), round(time.time() * 1000)
        requests = []
        for _ in range(count):
            user = rng.choice(users)
            seen: list[Any] = list(map(self.item_id, rng.sample(range(LOGGED), HISTORY)))
            context = {"tab": rng.choice(TABS), "hour": rng.randrange(24), "device": rng.choice(DEVICES)}
            if self.kind == "features":
                seen = [{"id": id_, "time": now - HOUR * (HISTORY - n)} for n, id_ in enumerate(seen)]
            requests.append(
                {
                    "user": {name: value for name, value in user.items() if name not in unread}
                    | {"history": seen},
                    "context": {name: value for name, value in context.items() if name not in unread},
                    "candidates": list(map(self.item_id, rng.sample(range(ITEMS), candidates))),
                }
            )
        return requests


@contextmanager
def million(folder: Path | None, kind: Kind = "plain") -> Iterator[Million]:
    """In a folder, where it is made unless it is there; in a temporary one if none is given."""
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as name:
        catalogue = Million(Path(name), kind)
        if not catalogue.made():
            catalogue.make()
        yield catalogue

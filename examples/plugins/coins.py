"""A simulated world: coins whose chances are known."""

from pathlib import Path

import numpy as np
import polars as pl
from pydantic import PositiveInt

from corank.datasets.simulated import WORLDS, Simulated, SimulatedWorld

CONFIG = """\
name: coins
data:
  log: log.parquet
  items: items.parquet
  truth: truth.parquet
  request: [request_id]
  user: user_id
  item: item_id
  time: time
  labels:
    click: {column: is_click}
  split: {valid: 0.1, test: 0.1}
features:
  user_id: {side: user, kind: id}
  item_id: {side: item, kind: id}
stages:
  - {name: prerank, model: towers, keep: 4, query: [8], item: [8]}
  - {name: rank, model: mlp, keep: 2, hidden: [8]}
losses:
  - {kind: click, stage: rank}
  - {kind: click, stage: prerank}
"""


@WORLDS.register("coins")
class Coins(SimulatedWorld):
    """Biased coins: every request shows all items, and each has a click probability of its own."""

    presets = ("coins",)
    files = ("config.yaml", "log.parquet", "items.parquet", "truth.parquet")

    requests: PositiveInt = 1000
    items: PositiveInt = 8

    def write(self, out: Path) -> Simulated:
        rng = np.random.default_rng(self.seed)
        request, item = np.divmod(np.arange(self.requests * self.items), self.items)
        chance = rng.uniform(0.05, 0.5, self.items)[item]
        rows = pl.DataFrame({"request_id": request, "item_id": item, "user_id": request % 50})
        time = pl.from_epoch("request_id", time_unit="s").dt.replace_time_zone("UTC")
        log = rows.with_columns(time=time, is_click=rng.random(len(rows)) < chance)
        log.write_parquet(out / "log.parquet")
        rows.select("request_id", "item_id", click=pl.Series(chance)).write_parquet(out / "truth.parquet")
        pl.DataFrame({"item_id": np.arange(self.items)}).write_parquet(out / "items.parquet")
        (out / "config.yaml").write_text(CONFIG, encoding="utf-8")
        return Simulated(candidates=len(rows), exposed=len(rows), clicks=int(log["is_click"].sum()))

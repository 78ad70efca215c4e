"""Logs of served requests that are made up: users with rates of their own, assigned to a canary, and what was shown."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corank_serve.log.log_format import LogColumns
from corank_serve.log.request_log import OpenLogFiles

ITEMS = 8
SHOWN = 3
MINUTE = 60_000


@dataclass(frozen=True)
class ServedWorld:
    """How requests and clicks come."""

    users: int = 400
    requests: int = 3000
    share: float = 0.3
    lift: float = 1.0
    """Rate of clicks of the canary, as a multiple."""
    noise: float = 0.3
    """Of the shadow's logits."""

    def write(self, folder: Path, seed: int = 0) -> Path:
        """Write a log with a canary and a shadow, and `exposures.parquet` and `clicks.csv` next to it."""
        rng = np.random.default_rng(seed)
        user = rng.integers(0, self.users, self.requests)
        canary = rng.random(self.users) < self.share
        logit = rng.normal(-1.5, 0.7, (self.requests, ITEMS)) + rng.normal(0, 0.5, self.users)[user][:, None]
        chance = 1 / (1 + np.exp(-logit))
        shadow = 1 / (1 + np.exp(-(logit + rng.normal(0, self.noise, logit.shape))))
        mine = np.where(canary, self.lift, 1.0)[user][:, None]
        clicked = (rng.random(chance.shape) < np.minimum(1, chance * mine)).astype(np.int8)
        order = np.argsort(-chance, axis=1)
        shown = np.argsort(order, axis=1) < SHOWN
        rows = pl.DataFrame(
            {
                "served_id": np.repeat([f"r{n:06d}" for n in range(self.requests)], ITEMS),
                "user_id": np.repeat(user, ITEMS),
                "time": pl.Series(np.repeat(np.arange(self.requests) * MINUTE, ITEMS)).cast(
                    pl.Datetime("ms", "UTC")
                ),
                "item_id": np.tile(np.arange(ITEMS), self.requests),
                "served_request": pl.Series(["{}", *[None] * (ITEMS - 1)] * self.requests, dtype=pl.String),
                "score_prerank": chance.ravel(),
                "score_rank": np.where(np.argsort(order, axis=1) < 5, chance, np.nan).ravel(),
            }
        ).with_columns(pl.col("score_rank").fill_nan(None))
        role = np.repeat(np.where(canary[user], "canary", "live"), ITEMS)
        model = np.where(role == "canary", f"{2:016x}", f"{1:016x}")
        _write(rows.with_columns(served_role=role, model_version=model), folder / "log")
        beside = rows.with_columns(
            served_role=pl.lit("shadow"),
            model_version=pl.lit(f"{3:016x}"),
            score_prerank=shadow.ravel(),
            score_rank=np.where(np.argsort(np.argsort(-shadow, axis=1), axis=1) < 5, shadow, np.nan).ravel(),
        ).with_columns(pl.col("score_rank").fill_nan(None))
        _write(beside, folder / "log" / "shadow")
        seen = rows.select("served_id", "item_id").with_columns(click=clicked.ravel()).filter(shown.ravel())
        seen.drop("click").write_parquet(folder / "exposures.parquet")
        seen.filter(pl.col("click") == 1).write_csv(folder / "clicks.csv")
        return folder / "log"


def _write(rows: pl.DataFrame, folder: Path) -> None:
    """Write two files of rows as a service does."""
    columns = LogColumns("user_id", "time", "item_id", ("prerank", "rank"))
    half = len(rows) // 2 // ITEMS * ITEMS
    for part in (rows[:half], rows[half:]):
        table = part.to_arrow()
        files = OpenLogFiles(folder, table.schema.with_metadata(columns.metadata()))
        files.write(table)
        files.complete()

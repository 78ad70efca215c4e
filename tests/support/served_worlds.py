"""Logs of served requests that are made up: users with rates of their own, split or mirrored, and what was shown."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corank_serve.log.log_format import LogColumns
from corank_serve.log.request_log import OpenLogFiles

ITEMS = 8
SHOWN = 3
MINUTE = 60_000
MODELS = {"a": f"{2:016x}", "b": f"{1:016x}", "mirrored": f"{3:016x}"}


@dataclass(frozen=True)
class ServedWorld:
    """How requests and clicks come."""

    users: int = 400
    requests: int = 3000
    share: float = 0.3
    lift: float = 1.0
    """Rate of clicks of users of a, as a multiple."""
    noise: float = 0.3
    """Of the logits of the mirrored service."""

    def write(self, folder: Path, seed: int = 0) -> Path:
        """Write the logs `a` and `b` of split users, `mirrored`, which ranked the requests of b once more, and what was
        shown of a and b, `exposures.parquet` and `clicks.csv`. Returns the folder."""
        rng = np.random.default_rng(seed)
        user = rng.integers(0, self.users, self.requests)
        has_a = rng.random(self.users) < self.share
        logit = rng.normal(-1.5, 0.7, (self.requests, ITEMS)) + rng.normal(0, 0.5, self.users)[user][:, None]
        chance = 1 / (1 + np.exp(-logit))
        noisy = 1 / (1 + np.exp(-(logit + rng.normal(0, self.noise, logit.shape))))
        mine = np.where(has_a, self.lift, 1.0)[user][:, None]
        clicked = (rng.random(chance.shape) < np.minimum(1, chance * mine)).astype(np.int8)
        order = np.argsort(-chance, axis=1)
        shown = np.argsort(order, axis=1) < SHOWN
        rows = pl.DataFrame(
            {
                "served_id": np.repeat([f"r{n:06d}" for n in range(self.requests)], ITEMS),
                "x_request_id": np.repeat([f"x{n:06d}" for n in range(self.requests)], ITEMS),
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
        of_a = pl.Series(np.repeat(has_a[user], ITEMS))
        for name, own in (("a", of_a), ("b", ~of_a)):
            _write(rows.filter(own).with_columns(model_version=pl.lit(MODELS[name])), folder / name)
        scored = np.where(np.argsort(np.argsort(-noisy, axis=1), axis=1) < 5, noisy, np.nan)
        copies = rows.with_columns(
            ("copy" + pl.col("served_id")).alias("served_id"),
            model_version=pl.lit(MODELS["mirrored"]),
            score_prerank=noisy.ravel(),
            score_rank=scored.ravel(),
        )
        _write(copies.filter(~of_a).with_columns(pl.col("score_rank").fill_nan(None)), folder / "mirrored")
        seen = rows.select("served_id", "item_id").with_columns(click=clicked.ravel()).filter(shown.ravel())
        seen.drop("click").write_parquet(folder / "exposures.parquet")
        seen.filter(pl.col("click") == 1).write_csv(folder / "clicks.csv")
        return folder


def _write(rows: pl.DataFrame, folder: Path) -> None:
    """Write two files of rows as a service does."""
    columns = LogColumns("user_id", "time", "item_id", ("prerank", "rank"))
    half = len(rows) // 2 // ITEMS * ITEMS
    for part in (rows[:half], rows[half:]):
        table = part.to_arrow()
        files = OpenLogFiles(folder, table.schema.with_metadata(columns.metadata()))
        files.write(table)
        files.complete()

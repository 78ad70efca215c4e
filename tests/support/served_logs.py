"""Hostile requests through a real funnel into a log of served requests, which the next training must accept."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import corank
from corank.core.errors import RequestError
from corank.core.time import now_ms
from corank.data.packing.pack import pack_log
from corank.funnel.request import Request
from corank_serve.http.body import JSON_CODEC
from corank_serve.log.log_format import SERVED
from corank_serve.log.request_log import RequestLog
from tests.support.cases import Case
from tests.support.hostile_input import mutate

VALUES: list[Any] = [
    *(None, True, 0, -1, 7, 2**31, 2**63 - 1, -(2**63), 2**70, 0.5, 1e39, -1e308, 253_402_300_799_000),
    *(1_764_000_000, "", "x", "\x00", "é" * 50, "9" * 400, "9999-12-31T23:59:59", "w1", [], [1, "x"], [[1]]),
    *({}, {"id": 3}, {"id": 3, "time": 2**62}),
]
"""What a part of a request is replaced by."""


@dataclass(frozen=True)
class ServedLog:
    """Outcomes of hostile requests."""

    refused: int
    counts: dict[str, int]
    """Of the log: written, rejected, dropped."""
    files: list[Path]


def serve_hostile(case: Case, folder: Path, cases: int, seed: int) -> ServedLog:
    """Send mutated requests of a case through its funnel, as a service does but for its clock, and log them."""
    rng = random.Random(seed)
    log, refused, files = RequestLog(folder), 0, []
    valid = [
        case.request(split, n)
        for split, shards in case.packed.splits.items()
        for n in range(sum(map(len, shards)))
    ]
    for n in range(cases):
        body: Any = rng.choice(valid)
        for _ in range(rng.randrange(4)):
            body = mutate(rng, body, rng.choice([*VALUES, now_ms()]))
        try:
            log.add(case.funnel, case.funnel.run(JSON_CODEC.decode(json.dumps(body).encode(), Request)))
        except RequestError:
            refused += 1
        if n % 500 == 499:
            files += log.flush(complete=True)
    files += log.flush(complete=True)
    return ServedLog(refused, log.take_counts(), files)


def add_labels(case: Case, files: list[Path], out: Path, seed: int = 0) -> int:
    """Join what only the page knows: levels, positions and labels, drawn at random. Returns how many rows there are."""
    rng = np.random.default_rng(seed)
    rows = pl.concat([pl.read_parquet(file) for file in files])  # of one schema, or this raises
    exposed = rng.random(len(rows)) < 0.5
    data = case.config.data
    drawn = rng.integers(0, 2, len(rows)).tolist()
    click = [label if shown else None for label, shown in zip(drawn, exposed, strict=True)]
    columns = {label.column: click for label in data.labels.values()}
    rows = rows.with_columns(pl.Series(name, values, pl.Int64) for name, values in columns.items())
    level = pl.Series("level", np.where(exposed, data.levels[-1], data.levels[0]).tolist())
    rows = rows.with_columns(level, pl.Series("position", rng.integers(0, 9, len(rows))))
    rows.drop("request").rename({SERVED: "request"}).with_columns(
        pl.col("request").alias(SERVED)
    ).write_parquet(out)
    return len(rows)


def learn_from(case: Case, labelled: Path, bundle: Path, packed: Path, key: Sequence[str] = ()) -> int:
    """Refresh a bundle from a labelled log and pack it, by another request key if one is given.

    Returns the packed candidates. Raises CorankError.
    """
    corank.refresh(bundle, str(labelled))
    data = case.config.data.model_copy(
        update={"log": str(labelled), "request": [*key] or case.config.data.request}
    )
    dataset = pack_log(data, case.config.declared, case.base, packed)
    return sum(dataset.manifest.levels.values())

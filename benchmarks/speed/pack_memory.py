"""Peak memory and size on disk of packing a log of 12 ids: 6 of the query, 4 of the item, 2 crosses.

The log is made in pieces and packed by a separate process, whose peak memory is measured. `flat` is the size of the
same 12 ids as uncompressed 64-bit columns, one row a candidate. Everything else that packing writes (keys, times,
levels, labels) counts against corank.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks import harness
from corank.core.types import Longs
from corank.data.packing.pack import pack_log
from corank.features.kinds.id import IdFeature
from corank.features.log_schema import LEVELS, DataSettings, Label
from corank.features.schema import Schema
from corank.features.split import TimeSplit

CANDIDATES, ITEMS, USERS = 50, 100_000, 100_000
QUERY, ITEM, CROSS = 6, 4, 2
PIECE = 10_000  # requests made at a time
DAY = 86_400_000
DAYS = 10
FLAT = 8 * (QUERY + ITEM + CROSS)


def data() -> DataSettings:
    return DataSettings(
        log="log.parquet",
        items="items.parquet",
        request=["request"],
        user="q0",
        item="item",
        time="time",
        level="level",
        labels={"click": Label(column="click")},
        split=TimeSplit.model_validate({"valid": "1970-01-09", "test": "1970-01-10"}),
    )


def schema() -> Schema:
    features = {f"q{n}": IdFeature(side="user" if n < 3 else "context", kind="id") for n in range(QUERY)}
    features |= {
        name: IdFeature(side="item", kind="id") for name in ["item", *(f"i{n}" for n in range(1, ITEM))]
    }
    features |= {f"x{n}": IdFeature(side="cross", kind="id") for n in range(CROSS)}
    return Schema(features)


def drawn_items(rng: np.random.Generator, requests: int, share: NDArray[np.float64]) -> Longs:
    """Items by popularity, distinct in a request: (requests, CANDIDATES)."""
    items = np.searchsorted(share, rng.random((requests, CANDIDATES)))
    while True:
        order = np.argsort(items, axis=1, kind="stable")
        ascending = np.take_along_axis(items, order, axis=1)
        again = np.zeros(items.shape, dtype=bool)
        np.put_along_axis(again, order[:, 1:], ascending[:, 1:] == ascending[:, :-1], axis=1)
        if not again.any():
            return items
        items[again] = np.searchsorted(share, rng.random(again.sum()))


def pieces(requests: int) -> Iterator[pl.DataFrame]:
    rng = np.random.default_rng(0)
    weight = np.arange(1, ITEMS + 1) ** -1.1
    share = np.cumsum(weight / weight.sum())
    share[-1] = 1
    for first in range(0, requests, PIECE):
        count = min(PIECE, requests - first)
        each = np.repeat(np.arange(count), CANDIDATES)
        rows = count * CANDIDATES
        level = rng.choice(len(LEVELS), rows, p=(0.6, 0.2, 0.1, 0.1))
        columns = {
            "request": first + each,
            "time": np.sort(rng.integers(0, DAYS * DAY, count))[each],
            "item": drawn_items(rng, count, share).ravel(),
            "level": pl.Series(LEVELS).gather(level),
            "click": (rng.random(rows) < 0.05).astype(np.int64),
        }
        columns |= {f"q{n}": rng.integers(0, max(USERS // 10**n, 5), count)[each] for n in range(QUERY)}
        columns |= {f"x{n}": rng.integers(0, 50_000, rows) for n in range(CROSS)}
        yield pl.DataFrame(columns)


def write_tables(folder: Path, requests: int) -> None:
    rng = np.random.default_rng(1)
    attributes = {f"i{n}": rng.integers(0, ITEMS // 10**n, ITEMS) for n in range(1, ITEM)}
    pl.DataFrame({"item": np.arange(ITEMS)} | attributes).write_parquet(folder / "items.parquet")
    writer = None
    for piece in pieces(requests):
        table = piece.to_arrow()
        writer = writer or pq.ParquetWriter(folder / "log.parquet", table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--candidates", type=int, default=20_000_000)
    parser.add_argument("--pack", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pack:
        pack_log(data(), schema(), options.pack, options.pack / "packed")
        return
    requests = max(options.candidates // CANDIDATES, DAYS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, requests)
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "benchmarks.speed.pack_memory", "--pack", name], check=True)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        packed = sum(path.stat().st_size for path in (folder / "packed").rglob("*") if path.is_file())
    candidates = requests * CANDIDATES
    figures = {
        "candidates": candidates,
        "peak_rss_mib": peak,
        "packed_bytes": packed,
        "flat_bytes": candidates * FLAT,
        "seconds": seconds,
    }
    aims = {"peak_rss_mib": ("<", 4096.0), "packed_bytes": ("<=", candidates * FLAT / 4)}
    harness.report("pack_memory", figures, aims, options.json)


if __name__ == "__main__":
    main()

"""A log with features of every sort, packed in small partitions by processes that may be killed, and compared by file.

`python -m tests.support.pack_processes FOLDER OUT ENGINE WORKERS` packs it.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from pydantic import TypeAdapter

from corank.core.artifact import MANIFEST, digest, open_folder
from corank.core.reports import Report
from corank.data import tables as row_ranges
from corank.data.packed.manifest import PackManifest
from corank.data.packing import pack as packing
from corank.engine.base import Engine, open_engine
from corank.features.feature_kind import Feature
from corank.features.schema import Schema
from tests.support.configs import data_settings

HOUR, DAY = 3_600_000, 86_400_000
USERS, ITEMS, CANDIDATES = 20, 30, 5
ID = {"kind": "id", "dim": 4}
FEATURES: dict[str, Any] = {
    "user": {"side": "user"} | ID,
    "city": {"side": "user"} | ID,
    "tab": {"side": "context"} | ID,
    "hour": {"side": "context", "kind": "number", "scale": "standard"},
    "item": {"side": "item"} | ID,
    "brand": {"side": "item"} | ID,
    "tags": {"side": "item", "kind": "ids", "dim": 4},
    "price": {"side": "item", "kind": "number", "scale": "quantile"},
    "match": {"side": "cross", "kind": "bucket", "buckets": 3, "dim": 4},
    "clicked": {"side": "user", "kind": "ids", "of": "item", "event": "click", "every": "1d", "dim": 4},
    "seen": {"side": "user", "kind": "ids", "of": "item", "lag": "30m", "half_life": "6h", "dim": 4},
    "brands": {"side": "user", "kind": "ids", "of": "clicked.brand", "dim": 4},
    "tab_brand": {"kind": "pair", "of": ["tab", "brand"], "dim": 4},
    "again": {"kind": "count", "of": ["seen", "item"], "scale": "none"},
    "item_ctr": {"kind": "prior", "by": ["item"], "label": "click", "scale": "standard"},
    "user_brand_ctr": {"kind": "prior", "by": ["user", "brand"], "label": "click", "every": "3h"},
}


def write_world(folder: Path, requests: int, seed: int = 0) -> None:
    """Write tables: a log of four days in two files of several row groups, items, users and true probabilities."""
    rng = np.random.default_rng(seed)
    each = np.repeat(np.arange(requests), CANDIDATES)
    who, time_ = rng.integers(0, USERS, requests)[each], np.sort(rng.integers(0, 4 * DAY, requests))[each]
    items = np.concatenate([rng.permutation(ITEMS)[:CANDIDATES] for _ in range(requests)])
    log = pl.DataFrame(
        {
            "request": each,
            "user": [f"user {n}" for n in who],
            "item": items,
            "time": time_,
            "tab": rng.integers(0, 3, requests)[each],
            "hour": time_ // HOUR % 24,
            "level": rng.choice(["retrieved", "preranked", "ranked", "exposed"], len(each)),
            "match": rng.random(len(each)),
            "click": rng.integers(0, 2, len(each)),
        }
    ).sample(fraction=1, shuffle=True, seed=seed)
    half = len(log) // 3
    for n, part in enumerate((log[:half], log[half:])):
        part.write_parquet(folder / f"log.{n}.parquet", row_group_size=max(half // 4, 1))
    truth = log.select("user", "request", "item", click=pl.col("match") / 2)
    truth.write_parquet(folder / "truth.parquet")
    tags = [rng.integers(0, 5, n).tolist() for n in rng.integers(0, 3, ITEMS)]
    table = {"item": np.arange(ITEMS), "brand": [f"brand {n % 7}" for n in range(ITEMS)], "tags": tags}
    pl.DataFrame(table | {"price": rng.uniform(1, 9, ITEMS)}).write_parquet(folder / "items.parquet")
    users = pl.DataFrame({"user": [f"user {n}" for n in range(USERS)], "city": np.arange(USERS) % 4})
    users.write_parquet(folder / "users.parquet")


def pack_world(
    folder: Path,
    out: Path,
    engine: Engine | None = None,
    report: Report = lambda line: None,
    batch: int = 64,
) -> dict[str, str]:
    """Pack it in partitions of about 40 rows, `batch` rows at a time. Returns the digest of each file."""
    tables = {name: f"{name}.parquet" for name in ("items", "users", "truth")}
    data = data_settings(log="log.*.parquet", request=["user", "request"], level="level", **tables)
    schema = Schema(TypeAdapter(dict[str, Feature]).validate_python(FEATURES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PARTITION", 40)
        patch.setattr(row_ranges, "BATCH", batch)
        packing.pack_log(data, schema, folder, out, report, engine)
    return digest_files(out)


def digest_files(out: Path) -> dict[str, str]:
    """Check packed data. Returns the digest of each file, and of the facts of the manifest."""
    manifest = open_folder(out, PackManifest).manifest
    facts = manifest.model_copy(update={"content": ""}).plain()
    return {name: file.sha256 for name, file in manifest.files.items()} | {MANIFEST: digest(facts)}


def start_pack(folder: Path, out: Path, engine: str, workers: int) -> "subprocess.Popen[str]":
    """Start a process that packs the world and prints each line of its report."""
    command = [
        sys.executable,
        "-m",
        "tests.support.pack_processes",
        str(folder),
        str(out),
        engine,
        str(workers),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_workers(process: "subprocess.Popen[str]", most: int, rng: random.Random, pause: float) -> int:
    """Kill random processes that a packing started, until it has ended. Returns how many."""
    killed, driver = 0, psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(rng.uniform(0, pause))
        with suppress(psutil.NoSuchProcess):
            children = driver.children(recursive=True)
            if killed < most and children:
                rng.choice(children).kill()
                killed += 1
    return killed


def pack_until(tasks: int, folder: Path, out: Path, engine: str, workers: int) -> None:
    """Pack the world, and kill this process once so many tasks are done."""

    def kill_if_done(done: int, known: int) -> None:
        if len(list(out.glob(".partial-work-*/done/*/*.json"))) >= tasks:
            os.kill(os.getpid(), signal.SIGKILL)

    with open_engine(engine, workers) as opened:
        opened.progress = kill_if_done
        pack_world(folder, out, opened)


if __name__ == "__main__":
    say: Callable[[str], object] = lambda line: print(line, flush=True)  # noqa: E731
    with open_engine(sys.argv[3], int(sys.argv[4])) as opened:
        pack_world(Path(sys.argv[1]), Path(sys.argv[2]), opened, say)

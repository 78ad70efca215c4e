"""Memory of a service with millions of items by the precision of their parts: on disk, in one worker and in two.

Bundles of random vectors, 32 numbers an item unless --width says otherwise, and with --sums of the ranker's 128
first-layer sums, too, are written by the bundle's own writer and served by `corank serve`; requests of 1,000 random
candidates touch the items. By precision: `parts_mib` and `bundle_mib` on disk, `start_seconds` until ready,
`worker_mib` resident in a worker and `heap_mib` of it that is of no file, `two_workers_mib` of two workers together (a
shared page counted once), and of a new version whose items all changed, `swap_seconds` from its pointer to its first
answer (the service looks every tenth of a second), and `swap_mib`, the worker's most meanwhile.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
import psutil
from rich.console import Console

import corank
from benchmarks import harness
from corank.analysis.logged_request import logged_request
from corank.bundle.bundle import Bundle
from corank.bundle.content import part_file
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.files import link_file
from corank.core.hash_index import Keys
from corank.core.stored_matrix import DTYPES, Precision, StoredMatrix, append_rows
from corank.datasets.feed.simulate import simulate_world
from corank.features.encoders import Encoders
from corank.training.run import Run
from tests.support.cases import write_bundle
from tests.support.service import running_service, workers_of

LOGGED, CANDIDATES, AT_ONCE = 2_000, 1_000, 1 << 16
"""Items of the log; candidates of a request; rows that are drawn at once."""
PAGE = 4096
AIMS = {
    "fp16.times_parts": ("<=", 0.51),
    "int8.times_parts": ("<=", 0.3),
    "fp16.times_worker": ("<", 1.0),
    "int8.times_worker": ("<", 1.0),
}


@dataclass(frozen=True)
class Catalogue:
    """A trained bundle, and its items over and over under new ids."""

    run: Run
    base: Bundle
    records: Path
    """Their records."""
    items: int

    @classmethod
    def make(cls, folder: Path, items: int, width: int, sums: bool) -> "Catalogue":
        """Train for a moment, and write the records."""
        simulate_world(folder / "world", requests=400, items=LOGGED)
        config = folder / "world" / "config.yaml"
        widths = [512, 128, 64, width]
        changes = ["train.epochs=1", f"stages.0.query={widths}", f"stages.0.item={widths}"]
        changes += [] if sums else ["stages.1.ahead=false"]
        run = corank.train(config, changes, folder=folder / "run").run
        base = corank.export(run.folder, folder / "base").bundle
        encoders = Encoders.load(base.folder / "encoders", base.manifest.declared)
        source = ItemRecords.load(base.folder / "items", encoders, base.manifest.item_columns)
        index = np.resize(np.arange(len(source.ids)), items)
        columns = {name: column[index] for name, column in source.columns.items()}
        ids = Keys(pl.Series("item", np.arange(items)))
        records = folder / "records"
        ItemRecords(ids, source.rows.take(index), source.operands.take(index), columns).save(
            records / "items"
        )
        return cls(run, base, records, items)

    def write(self, path: Path, precision: Precision, seq: int) -> Bundle:
        """Write a bundle of all items at a precision; its parts are others for another number of the version."""
        facts = [
            stage.model_copy(update={"precision": dict.fromkeys(stage.item_parts, precision)})
            for stage in self.base.manifest.stages
        ]
        version = f"{list(DTYPES).index(precision) + 1:016x}"
        changes = {"stages": facts, "model_version": version, "items_seq": seq}
        manifest = self.base.manifest.model_copy(update=changes)

        def fill(folder: Path) -> None:
            for part in manifest.files:
                if not part.startswith("items/"):
                    link_file(self.base.folder / part, folder / part)
            for file in self.records.rglob("*.*"):
                link_file(file, folder / file.relative_to(self.records))
            self._write_parts(folder, manifest, seq)

        return write_bundle(path, manifest, fill)

    def _write_parts(self, folder: Path, manifest: BundleManifest, seq: int) -> None:
        rng = np.random.default_rng(seq)
        for part in (part for stage in manifest.stages for part in stage.parts):
            shape = self.items, part.width
            with append_rows(part_file(folder, part.name), shape, part.precision) as append:
                for first in range(0, self.items, AT_ONCE):
                    size = min(AT_ONCE, self.items - first), part.width
                    append(StoredMatrix.encode(rng.standard_normal(size, dtype=np.float32), part.precision))

    def requests(self, count: int) -> Iterator[dict[str, Any]]:
        """Logged requests with candidates of all items."""
        rng, logged = np.random.default_rng(0), logged_request(self.run, "test", 0)
        for _ in range(count):
            chosen = rng.integers(self.items, size=CANDIDATES)
            yield logged | {"candidates": np.unique(chosen).tolist(), "trace": False}


@dataclass(frozen=True)
class Service:
    """A service that is ready."""

    client: httpx2.Client
    process: psutil.Process
    started: float
    """Seconds until it was ready."""

    @classmethod
    @contextmanager
    def start(cls, bundle: Path, cache: Path, workers: int) -> Iterator["Service"]:
        """Serve a bundle."""
        began = time.monotonic()
        with (
            running_service(str(bundle), cache, "--every", "0.1", workers=workers) as (url, process),
            httpx2.Client(base_url=url, timeout=60) as client,
        ):
            while client.get("/readyz").status_code != 200:
                time.sleep(0.02)
            yield cls(client, process, time.monotonic() - began)

    def rank(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        answer = self.client.post("/rank", json=request, headers={"Connection": "close"})
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document

    def mib(self, kind: str) -> float:
        """Memory of the workers, summed, of a kind that the kernel counts."""
        total = 0
        for worker in workers_of(self.process):
            text = Path(f"/proc/{worker.pid}/smaps_rollup").read_text(encoding="utf-8")
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(kind))
        return total / 1024


def measure(catalogue: Catalogue, folder: Path, precision: Precision) -> dict[str, float]:
    """The figures of one precision."""
    path, figures = folder / precision, dict[str, float]()
    parts = catalogue.write(path, precision, 1).manifest.files
    stored = sum(part.bytes for name, part in parts.items() if name.startswith("items/part."))
    figures["parts_mib"] = stored / 2**20
    figures["bytes_an_item"] = stored / catalogue.items
    figures["bundle_mib"] = sum(part.bytes for part in parts.values()) / 2**20
    # three draws a page leave one of twenty untouched
    touching = max(200, 3 * stored // PAGE // CANDIDATES)
    with Service.start(path, folder / "cache", 1) as service:
        figures["start_seconds"] = service.started
        for request in catalogue.requests(touching):
            service.rank(request)
        figures["worker_mib"] = service.mib("Rss:")
        figures["heap_mib"] = service.mib("Anonymous:")
        figures |= swap(catalogue, path, precision, service)
    with Service.start(path, folder / "cache", 2) as service:
        for request in catalogue.requests(2 * touching):
            service.rank(request)
        figures["two_workers_mib"] = service.mib("Pss:")
    return figures


def swap(catalogue: Catalogue, path: Path, precision: Precision, service: Service) -> dict[str, float]:
    """Replace the bundle that is served, and wait for the first answer of the new one."""
    (request,) = catalogue.requests(1)
    catalogue.write(path, precision, 2)
    began, most = time.monotonic(), 0.0
    while service.rank(request)["items_seq"] != 2:
        most = max(most, service.mib("Rss:"))
        time.sleep(0.02)
    return {"swap_seconds": time.monotonic() - began, "swap_mib": max(most, service.mib("Rss:"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--sums", action="store_true", help="with the ranker's first-layer sums")
    parser.add_argument("--folder", type=Path, help="where bundles are written; a temporary one unless given")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say, figures = Console(stderr=True).print, dict[str, float]()
    with tempfile.TemporaryDirectory() if arguments.folder is None else nullcontext(arguments.folder) as name:
        say(f"a world, a model, {arguments.items:,} items …")
        catalogue = Catalogue.make(Path(name), arguments.items, arguments.width, arguments.sums)
        for precision in DTYPES:
            say(f"{precision} …")
            values = measure(catalogue, Path(name), precision)
            figures |= {f"{precision}.{key}": value for key, value in values.items()}
    for precision in ("fp16", "int8"):
        for key in ("parts", "bundle", "worker", "two_workers"):
            ratio = figures[f"{precision}.{key}_mib"] / figures[f"fp32.{key}_mib"]
            figures[f"{precision}.times_{key}"] = ratio
    harness.report("item_memory", figures, AIMS, arguments.json)


if __name__ == "__main__":
    main()

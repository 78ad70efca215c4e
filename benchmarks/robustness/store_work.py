"""Processes that work on a store: one publishes, one upserts items, one reads and checks, one swaps versions.

Each prints `ready` when it is loaded and begins when it receives a line. Its folder holds what the processes of one
store share. Next to it are the bundles of tests/support/bundle_versions.py, by number, and `rows.json`, the columns of
items.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from corank.core.errors import StoreError
from corank.funnel.funnel import Funnel
from corank_serve.store import publish as publishing
from corank_serve.store.base import Store, open_store
from corank_serve.store.claims import store_time
from corank_serve.store.fetch import catch_up, fetch_bundle, load_latest
from corank_serve.store.journal import read_log
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.record_codec import RecordFormat, to_ids, to_keys
from corank_serve.store.retention import remove_versions
from corank_serve.store.upsert import upsert
from corank_serve.store.version_parts import read_stored_manifest

BLOCK = 64
"""Records written at once: as many blocks as a large catalogue has."""
AT_ONCE, UPSERTS = 5, 8
MARK = 1000
"""Upserts are numbered from here, bundles below."""


class Worker:
    """A loaded process that begins on a signal."""

    def __init__(self, what: str, folder: Path, url: str, *arguments: object) -> None:
        command = [
            sys.executable,
            "-c",
            "from benchmarks.robustness.store_work import main; main()",
            what,
            folder,
            url,
            *arguments,
        ]
        self.process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def begin(self) -> None:
        assert self.process.stdin and self.process.stdout
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.process.args!r}: has not started")
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Its output."""
        return self.process.communicate()[0]


def number_of(model_version: str) -> int:
    return int(model_version, 16)


def ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def publisher(folder: Path, store: Store, bundle: str) -> None:
    """Removes older versions but for one, and publishes."""
    ready()
    publishing.BLOCK = BLOCK
    remove_versions(store, keep=1)
    publish_bundle(folder.parent / bundle, store)


def upserter(folder: Path, store: Store, first: str) -> None:
    """Upserts under one number each, which is every item's `worth`; tells each that is in."""
    rows = json.loads((folder.parent / "rows.json").read_text(encoding="utf-8"))
    opened = [Funnel.open(path.parent) for path in folder.parent.glob("[0-9]*/manifest.json")]
    rng, funnels = random.Random(int(first)), {funnel.manifest.content: funnel for funnel in opened}
    ready()
    for number in range(int(first), int(first) + UPSERTS):
        items = [row | {"worth": float(number)} for row in rng.sample(rows, AT_ONCE)]
        live = StoreState.read(store)[1].require_live(store)
        print(json.dumps([upsert(store, funnels[live], items).seq, number]), flush=True)


@dataclass
class Reader:
    """Follows a store as a server does, and looks records up as other programs do."""

    folder: Path
    store: Store
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    funnel: Funnel | None = None
    forms: dict[str, tuple[RecordFormat, int]] = field(default_factory=dict)

    def look(self, live: str) -> dict[str, Any]:
        """What it holds after one look: version, change, and the `worth` of what changed since the bundle."""
        if self.funnel is None or self.funnel.manifest.content != live:
            shutil.rmtree(self.folder / "reader", ignore_errors=True)  # read all of it again
            self.funnel = load_latest(
                self.store, live, Funnel(fetch_bundle(self.store, live, self.folder / "reader"))
            )
        else:
            self.funnel = catch_up(self.store, live, self.funnel)
        manifest, (base, *later) = self.funnel.manifest, self.funnel.request_encoder.items.layers
        if (base.records.columns["worth"] != number_of(manifest.model_version)).any():
            raise ValueError(f"{live}: items of another version")
        worths = {
            id_: worth
            for layer in later
            for id_, worth in zip(
                layer.records.ids.values.to_list(), layer.records.columns["worth"].tolist(), strict=True
            )
        }
        return {"version": manifest.content, "seq": manifest.items_seq, "worths": worths}

    def look_up(self, live: str) -> None:
        """Some items by their key: newer records first, then the bundle's."""
        if live not in self.forms:
            manifest, _ = read_stored_manifest(self.store, live)
            self.forms[live] = RecordFormat.from_manifest(manifest), number_of(manifest.model_version)
        assert self.funnel is not None
        ids = self.funnel.request_encoder.items.layers[0].records.ids.values
        keys = to_keys(ids.gather([self.rng.randrange(len(ids)) for _ in range(16)]))
        for table, least, most in ((f"changed/{live}", MARK, sys.maxsize), (f"items/{live}", 0, MARK)):
            for key, record in zip(keys, self.store.get(table, keys), strict=True):
                self._check(live, table, key, record, least, most)

    def _check(self, live: str, table: str, key: bytes, record: bytes | None, least: int, most: int) -> None:
        form, number = self.forms[live]
        if record is None:
            if table.startswith("items/"):
                raise StoreError(f"{table}: {to_ids([key])[0]} is missing")
            return
        if not form.is_intact(key, record):
            raise ValueError(f"{table}: the record of {to_ids([key])[0]} is not sound")
        worth = form.decode({key: record}).records.columns["worth"][0]
        if not least <= worth < most or (table.startswith("items/") and worth != number):
            raise ValueError(f"{table}: {to_ids([key])[0]} is worth {worth}")


def reader(folder: Path, store: Store) -> None:
    """Writes a line for every state that it sees, and for everything that is wrong, until there is a file `enough`."""
    ready()
    one, previous, looks = Reader(folder, store), None, 0
    with (folder / "seen.jsonl").open("w", encoding="utf-8") as file:
        while not (folder / "enough").exists():
            for line in _seen(one):
                if line != previous:
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                previous = line
            looks += 1
            time.sleep(0.002)
        file.write(json.dumps({"looks": looks}) + "\n")


def swapper(folder: Path, store: Store, port: str, every: str, swaps: str) -> None:
    """Publishes bundle after bundle, so many seconds apart, each once the one before is served.

    Prints of each how many seconds it was live before it was served.
    """
    url = f"http://127.0.0.1:{port}/version"
    os.nice(19)  # whoever serves and asks has the cores first
    ready()
    began = time.monotonic()
    for n in range(int(swaps)):
        publish_bundle(folder.parent / f"{2 + n}", store)
        while number_of(json.load(urlopen(url))["model_version"]) != 2 + n:
            time.sleep(0.02)
        went_live = max(line.at for line in read_log(store) if line.what == "publish")
        print((store_time(store) - went_live) / 1e3, flush=True)
        time.sleep(max(0, began + (n + 1) * float(every) - time.monotonic()))


def _seen(one: Reader) -> Iterator[dict[str, Any]]:
    live = StoreState.read(one.store)[1].require_live(one.store)
    try:
        yield one.look(live)
        one.look_up(live)
    except (StoreError, ValueError) as error:
        # a version that was just removed cannot be read, and need not be
        if isinstance(error, ValueError) or live in StoreState.read(one.store)[1].versions:
            yield {"wrong": str(error)}


def main() -> None:
    """What the command line says: the worker's name, its folder, the store, more arguments."""
    what, folder, url, *arguments = sys.argv[1:]
    work: dict[str, Callable[..., None]] = {
        "publisher": publisher,
        "upserter": upserter,
        "reader": reader,
        "swapper": swapper,
    }
    work[what](Path(folder), open_store(url), *arguments)

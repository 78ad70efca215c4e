"""A store whose head and manifest are mutated, and what a service makes of it."""

import hashlib
import json
import random
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

from corank.serving.funnel.request import Request
from corank.serving.store.base import Store, open_store
from corank.serving.store.publish import publish_bundle
from corank.serving.store.source import StoreSource
from corank.serving.store.version_parts import MANIFEST
from tests.support.hostile_bundles import mutate_bytes, mutate_manifest
from tests.support.hostile_cases import VALUES, FileWatch, Outcome, attempt
from tests.support.hostile_input import mutate


class HostileStore:
    """Follows mutations of one store."""

    def __init__(self, bundle: Path, request: dict[str, Any], folder: Path) -> None:
        """
        Args:
            bundle: a sound one, which is published.
            request: that it can rank.
            folder: for the store and the cache, next to files that none may touch.
        """
        self.request, self.canary, self.case = request, folder / "canary", folder / "case"
        self.canary.mkdir(parents=True)
        (self.canary / "file").write_text("untouched")
        self.case.mkdir()
        self.url = f"lmdb:{self.case / 'store'}"
        with closing(open_store(self.url, create=True)) as store:
            self.version = publish_bundle(bundle, store)
            self.head = store.head() or b""
            (self.manifest,) = store.get(f"parts/{self.version}", [MANIFEST])

    def run(self, cases: int, seed: int, watch: FileWatch) -> Outcome:
        """Follow the store after each mutation; rank by what is then live."""
        outcome, random_ = Outcome(), random.Random(seed)
        with closing(open_store(self.url)) as store:
            for _ in range(cases):
                self.write(random_, store)
                shutil.rmtree(self.case / "cache", ignore_errors=True)
                outcome.cases += 1
                with watch.armed(self.canary, self.case) as touched:
                    attempt(outcome, lambda: self.follow(store), f"store case {outcome.cases} of seed {seed}")
                if touched or (self.canary / "file").read_text() != "untouched":
                    outcome.escaped += 1
                    outcome.note(f"touched {touched}")
        return outcome

    def follow(self, store: Store) -> None:
        """Load what is live, and rank a request."""
        funnel = StoreSource(store, self.case / "cache").load_newer(None)
        assert funnel is not None
        funnel.rank(Request.parse(self.request))

    def write(self, random_: random.Random, store: Store) -> None:
        """Write head and manifest, one of them mutated; the head's digest of the manifest fits in most cases."""
        head, manifest = json.loads(self.head), self.manifest or b""
        if random_.random() < 0.5:
            manifest = json.dumps(mutate_manifest(random_, json.loads(manifest))).encode()
            if random_.random() < 0.9:
                head["versions"][self.version]["manifest"] = hashlib.sha256(manifest).hexdigest()
        else:
            hostile = ["../../canary", "/canary/file", "..", "", *VALUES]
            head = mutate(random_, head, random_.choice(hostile))
            if random_.random() < 0.2 and isinstance(head, dict):
                name = random_.choice(["../../canary/x", "/canary", "a/../b", "\x00", "x" * 3000])
                facts = json.loads(self.head)["versions"][self.version]
                head |= {"live": name, "versions": {name: facts}}
        raw = json.dumps(head).encode()
        raw = mutate_bytes(random_, raw) if random_.random() < 0.1 else raw
        assert store.swap(store.head(), raw, {f"parts/{self.version}": [(MANIFEST, manifest)]})

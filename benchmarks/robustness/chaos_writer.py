"""The process that changes a store while `chaos` disturbs it: upserts, and a new version now and then.

Whatever fails is tried again, as an operator's script would. Its clock may be off by hours.
"""

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.load import on_core
from corank.core import time as clock
from corank.core.errors import CorankError
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Store, open_store
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.retention import remove_versions
from corank_serve.store.upsert import upsert

AT_ONCE = 5
UPSERT_SECONDS, PUBLISH_SECONDS, RETRY_SECONDS = 0.5, 10.0, 0.2


class Writer:
    """The process, and how to start it anew."""

    def __init__(self, url: str, bundles: Sequence[Path], rows: Path) -> None:
        """
        Args:
            url: of the store.
            bundles: which are published in turn.
            rows: a JSON file of the columns of items that are upserted.
        """
        program = "from benchmarks.robustness.chaos_writer import main; main()"
        self._command = [sys.executable, "-c", program, url, str(rows), *map(str, bundles)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, hours: float = 0.0) -> None:
        """Start it, with its clock so many hours ahead."""
        with on_core(-1):
            self.process = subprocess.Popen([*self._command, str(hours)], cwd=Path(__file__).parents[2])

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def shift_clock(hours: float) -> None:
    """Let this process read a clock that is so many hours ahead."""
    right, ahead = clock.now_ms, round(hours * 3_600_000)
    for module in list(sys.modules.values()):
        if getattr(module, "now_ms", None) is right:
            vars(module)["now_ms"] = lambda: right() + ahead


def change(store: Store, bundles: Sequence[Path], rows: Sequence[dict[str, object]]) -> None:
    """Upsert and publish until something fails. Raises CorankError."""
    rng, published = random.Random(), time.monotonic()
    funnels: dict[str, Funnel] = {}
    for number in itertools.count():
        live = StoreState.read(store)[1].live
        if live is None or time.monotonic() - published > PUBLISH_SECONDS:
            publish_bundle(rng.choice(bundles), store)
            remove_versions(store, keep=1)
            published = time.monotonic()
            continue
        if live not in funnels:
            opened = [Funnel.open(path) for path in bundles]
            funnels = {funnel.manifest.content: funnel for funnel in opened}
        items = [row | {"worth": float(number)} for row in rng.sample(list(rows), AT_ONCE)]
        upsert(store, funnels[live], items)
        time.sleep(UPSERT_SECONDS)


def main() -> None:
    """What the command line says: the store, the items, bundles, and the hours that the clock is ahead."""
    url, rows, *bundles, hours = sys.argv[1:]
    shift_clock(float(hours))
    items = json.loads(Path(rows).read_text(encoding="utf-8"))
    while True:
        try:
            with closing(open_store(url)) as store:
                change(store, [Path(bundle) for bundle in bundles], items)
        except CorankError as error:
            print(f"writer: {error}", file=sys.stderr, flush=True)
            time.sleep(RETRY_SECONDS)

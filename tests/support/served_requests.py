"""A log of served requests that service processes wrote: `corank serve STORE --log`, and pinned to another version."""

from contextlib import closing
from pathlib import Path

import httpx2

from corank_serve.store.base import open_store
from corank_serve.store.publish import publish_bundle
from tests.support.bundle_versions import variant
from tests.support.service import running_service
from tests.support.shared import derived, shared


def served_log() -> Path:
    """A folder with `log/`, which a service of the live version and a pinned one wrote, and their `store/`."""
    return shared("served", _serve)


def _serve(folder: Path) -> None:
    """Serve the logged requests of the case that has something of every kind, half of them by the pinned one."""
    case = derived()
    assert case.funnel  # exports the bundle
    bundle, url = case.base / "bundle", f"lmdb:{folder / 'store'}"
    with closing(open_store(url, create=True)) as store:
        publish_bundle(bundle, store)
        staged = publish_bundle(variant(bundle, folder / "other", 2), store, stage=True)
    numbers = [
        (split, number)
        for split, shards in case.packed.splits.items()
        for number in range(sum(map(len, shards)))
    ]
    for half, options in enumerate([[], ["--version", staged]]):
        with running_service(url, folder / "cache", "--log", str(folder / "log"), *options) as (address, _):
            for split, number in numbers[half::2]:
                answer = httpx2.post(f"{address}/rank", json=case.request(split, number))
                assert answer.status_code == 200, answer.text

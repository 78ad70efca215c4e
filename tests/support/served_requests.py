"""A log of served requests that a service process wrote: `corank serve STORE --canary --shadow --log`."""

import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2

from corank_serve.store.base import open_store
from corank_serve.store.publish import publish_bundle
from tests.support.bundle_versions import variant
from tests.support.service import running_service
from tests.support.shared import derived, shared

_SHADOWED = re.compile(r"^corank_shadow_requests_total\{.*\} (\S+)$", re.M)


def served_log() -> Path:
    """A folder with `log/`, which a service with a canary and a shadow wrote, and its `store/`."""
    return shared("served", _serve)


def _serve(folder: Path) -> None:
    """Serve the logged requests of the case that has something of every kind."""
    case = derived()
    assert case.funnel  # exports the bundle
    bundle, url = case.base / "bundle", f"lmdb:{folder / 'store'}"
    with closing(open_store(url, create=True)) as store:
        publish_bundle(bundle, store)
        beside = publish_bundle(variant(bundle, folder / "other", 2), store, stage=True)
    options = ["--canary", f"{beside}:50%", "--shadow", beside, "--log", str(folder / "log")]
    answers: list[dict[str, Any]] = []
    with running_service(url, folder / "cache", *options) as (address, _):
        for split, shards in case.packed.splits.items():
            for number in range(sum(map(len, shards))):
                answer = httpx2.post(f"{address}/rank", json=case.request(split, number))
                assert answer.status_code == 200, answer.text
                answers.append(answer.json())
        live = sum(answer["role"] == "live" for answer in answers)
        while _count_shadowed(address) < live:
            time.sleep(0.02)


def _count_shadowed(address: str) -> float:
    """How many requests the shadow has ranked, or dropped."""
    return sum(map(float, _SHADOWED.findall(httpx2.get(f"{address}/metrics").text)))

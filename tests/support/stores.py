"""What tests of publishing share: a bundle, stores of either kind, items to put in, and answers."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from corank.core.errors import StoreError
from corank.core.reports import Report
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank_serve.http.follower import Follower
from corank_serve.store.base import Entries, Pairs, Store, open_store
from corank_serve.store.fetch import fetch_bundle, load_latest
from corank_serve.store.live_version import StoreState
from corank_serve.store.record_codec import RecordFormat
from corank_serve.store.source import StoreSource
from corank_serve.store.upsert import upsert
from corank_serve.store.version_parts import MANIFEST
from tests.support.redis_cluster import shared_cluster
from tests.support.redis_server import redis_server
from tests.support.shared import derived
from tests.support.waiting import eventually

KINDS = (
    "lmdb",
    pytest.param("redis", marks=pytest.mark.store),
    pytest.param("cluster", marks=[pytest.mark.store, pytest.mark.thorough]),
)


class Between:
    """A store in which something happens before a write of the thread that made it: of no beat of a claim."""

    url_form: ClassVar[str] = "wrapper"

    def __init__(self, store: Store, happens: Callable[[int, Mapping[str, Pairs]], Any]) -> None:
        """`happens` receives the count of writes, and the entries of this one."""
        self._store, self._happens, self.writes = store, happens, 0
        self._thread = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, entries: Entries) -> None:
        self._store.put(self._told(entries))

    def swap(
        self,
        before: bytes | None,
        after: bytes,
        entries: Mapping[str, Pairs] = {},
        gone: Mapping[str, Sequence[bytes]] = {},
    ) -> bool:
        return self._store.swap(before, after, self._told(entries), gone)

    def _told(self, entries: Mapping[str, Pairs]) -> Mapping[str, Pairs]:
        if threading.get_ident() != self._thread:
            return entries
        self.writes += 1
        return self._happens(self.writes - 1, entries) or entries


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[Store]:
    """A new store of a kind."""
    if kind == "lmdb":
        with closing(open_store(f"lmdb:{folder / 'store'}", create=True)) as store:
            yield store
    elif kind == "cluster":
        with closing(open_store(shared_cluster().url)) as store:
            yield store
    else:
        with redis_server(folder) as server, closing(open_store(server.url)) as store:
            yield store


def open_hasty(url: str, seconds: float = 2.0) -> Store:
    """Open the store of a Redis' URL, whose calls give up after so long, as soon as it opens within that time."""

    def opened() -> Store | None:
        with suppress(StoreError):
            return open_store(f"{url}{'&' if '?' in url else '?'}socket_timeout={seconds}")
        return None

    return eventually(opened)


@contextmanager
def following(url: str, cache: Path, report: Report = lambda line: None) -> Iterator[Follower]:
    """A follower of the store at a URL, as a service has one, without its thread; closed at the end."""
    follower = Follower(StoreSource(url, cache), report=report)
    try:
        yield follower
    finally:
        follower.stop()


def served(store: Store, cache: Path, version: str | None = None) -> Funnel:
    """The funnel that a reader that starts now would serve, of the live version or another."""
    version = version or StoreState.read(store)[1].require_live(store)
    return load_latest(store, version, Funnel(fetch_bundle(store, version, cache)))


def put(store: Store, bundle: Path, *rows: dict[str, Any]) -> int:
    """Put items into the live version, which is a bundle's; the number of the change."""
    funnel = Funnel.open(bundle)
    return upsert(store, funnel, list(rows)).seq


def replace_manifest(store: Store, version: str, plain: Mapping[str, Any], **facts: Any) -> StoreState:
    """Write another manifest of a version, which fits the head, with other facts of it; the head is returned."""
    raw, (before, state) = msgspec.json.encode(plain), StoreState.read(store)
    facts |= {"manifest": hashlib.sha256(raw).hexdigest()}
    versions = state.versions | {version: state.versions[version].model_copy(update=facts)}
    after = state.model_copy(update={"versions": versions})
    assert store.swap(before, after.to_bytes(), {f"parts/{version}": [(MANIFEST, raw)]})
    return after


def read_plain(store: Store, version: str) -> dict[str, Any]:
    """The manifest of a version as it lies in a store."""
    (raw,) = store.get(f"parts/{version}", [MANIFEST])
    plain: dict[str, Any] = json.loads(raw or b"")
    return plain


def item(like: int, id_: int | None = None, **columns: Any) -> dict[str, Any]:
    """The columns of an item of the world, as those of another; some of them otherwise."""
    row = derived().items.row(like, named=True)
    defaults = {name: value for name, value in row.items() if name != "item_id"}
    return {"id": row["item_id"] if id_ is None else id_} | defaults | columns


def records(funnel: Funnel) -> dict[bytes, bytes]:
    """Every item's newest record."""
    form, encoded = RecordFormat.from_manifest(funnel.manifest), dict[bytes, bytes]()
    for layer in funnel.request_encoder.items.layers:
        encoded |= form.encode(layer, np.arange(len(layer.records.ids)))
    return encoded


def worths(funnel: Funnel) -> dict[int, float]:
    """The column `worth` of every item."""
    worth_by_id: dict[int, float] = {}
    for layer in funnel.request_encoder.items.layers:
        table = layer.records
        worth_by_id |= zip(table.ids.values.to_list(), table.columns["worth"].tolist(), strict=True)
    return worth_by_id


@cache
def requests() -> list[dict[str, Any]]:
    """The logged requests of validation and test, traced."""
    case = derived()
    return [
        case.request(split, number)
        for split in ("valid", "test")
        for number in range(sum(map(len, case.packed.splits[split])))
    ]


def answers(funnel: Funnel, more: Sequence[int] = ()) -> list[dict[str, Any]]:
    """To every logged request, with `more` items to rank."""
    described = [{"id": id_, "bid": 1.0} for id_ in more]
    rankings = [
        funnel.rank(Request.parse(asked | {"candidates": asked["candidates"] + described}))
        for asked in requests()
    ]
    names = {"items_seq", "items_id"}
    return [{name: value for name, value in answer.items() if name not in names} for answer in rankings]

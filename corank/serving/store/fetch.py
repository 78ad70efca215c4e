"""A store's version → a bundle on this machine's disk, memory-mapped by all who serve it; and what came since.

The bundle is fetched once. Items that were upserted lie on top of it, in memory: who follows the store reads what came
from its journal, change by change, so that what is served is the state of one change, whole.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path

from corank.bundle.bundle import Bundle, write_bundle
from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_vectors import save_vectors
from corank.bundle.manifest import BundleManifest
from corank.core.errors import BundleError, StoreError
from corank.core.files import read_frame
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store
from corank.serving.store.live_version import StoreState, journal
from corank.serving.store.publish import (
    BLOCK,
    KEYS,
    DamagedError,
    carried,
    chunks,
    on_top,
    read_stored_manifest,
)
from corank.serving.store.record_codec import RecordFormat, to_keys

KEPT = 4
"""Bundles in a cache: what was live lately may be again."""
VERSION = re.compile(r"[0-9a-f]{16}-\d+-[0-9a-f]{8}")


def fetch_bundle(store: Store, version: str, cache: Path, proven: bool = False) -> Bundle:
    """The bundle of a version, in `cache`, from where it is taken if it is there: proven, unless it was just now.

    Processes that ask for one version at once fetch it once. Of others, the cache keeps those that were asked for last.
    Raises StoreError, BundleError.
    """
    path = cache / version
    with _locked(cache, f".{version}.lock"):
        try:
            bundle = Bundle.open(path, proven)
        except BundleError:
            manifest = read_stored_manifest(store, version)
            bundle = write_bundle(path, manifest, lambda folder: _fill(folder, store, version, manifest))
        _tidy(path)
    # what is written gets a name of its own; here the store's counts
    return Bundle(bundle.folder, bundle.manifest.model_copy(update={"content": version}))


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Held by one process at a time; let go of when it ends, be it by a signal. Raises BundleError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("w")
    except OSError as error:
        raise BundleError(f"{folder}: bundles cannot be kept there: {error}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tidy(path: Path) -> None:
    """Remove the versions that nobody asked for lately; who has one in memory keeps its files to the end."""
    with suppress(OSError):  # another process does it, too
        os.utime(path)
        found = (file.parent for file in path.parent.glob("*/manifest.json"))
        held = [one for one in found if VERSION.fullmatch(one.name)]
        for old in sorted(held, key=lambda one: one.stat().st_mtime_ns)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _fill(folder: Path, store: Store, version: str, manifest: BundleManifest) -> None:
    for part, facts in manifest.parts.items():
        if carried(part):
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            with (folder / part).open("wb") as file:
                file.writelines(chunks(store, version, part, facts))
    layer = _items(folder, store, version, RecordFormat.from_manifest(manifest))
    layer.records.save(folder / "items")
    save_vectors(folder, layer.vectors)


def _items(folder: Path, store: Store, version: str, form: RecordFormat) -> ItemLayer:
    """The records of the bundle's items, block by block in their order; raises StoreError for one that is not there."""
    keys = to_keys(read_frame(folder / KEYS).to_series())
    layers = []
    for first in range(0, len(keys), BLOCK):
        some = keys[first : first + BLOCK]
        found = store.get(f"items/{version}", some)
        held = {key: record for key, record in zip(some, found, strict=True) if record is not None}
        if len(held) < len(some):
            raise DamagedError(
                f"{store.address}: {len(some) - len(held)} records of {version} are missing; publish it again"
            )
        layers.append(form.decode(held))
    return ItemLayer.concat(layers)


def load_latest(store: Store, version: str, funnel: Funnel) -> Funnel:
    """A version's funnel with all that came since its bundle, as of one change. Raises StoreError."""
    _, head = StoreState.read(store)
    head.facts(store, version)
    funnel, form = _bundles(funnel), RecordFormat.from_manifest(funnel.manifest)
    records = {key: record for pairs in store.scan(f"changed/{version}") for key, record in pairs}
    newer = form.decode(records) if records else None
    # a record may be newer than the head that was read: what came since is put on top once more
    return catch_up(store, version, funnel.renewed(head.until(version), newer))


def _bundles(funnel: Funnel) -> Funnel:
    """Without what came since its bundle."""
    items = LayeredItems(funnel.request_encoder.items.layers[:1])
    bare = copy(funnel)
    bare.request_encoder = funnel.request_encoder.renewed(items)
    bare.retrieval = funnel.retrieval and funnel.retrieval.with_items(items)
    return bare


def restore(store: Store, version: str, funnel: Funnel, seq: int) -> Funnel:
    """A version's funnel, its bundle's, brought to the state after an earlier change.

    Raises StoreError where the journal does not reach back so far.
    """
    _, head = StoreState.read(store)
    facts, form = head.facts(store, version), RecordFormat.from_manifest(funnel.manifest)
    if not head.tells(facts):
        raise StoreError(f"{store.address}: the journal has not all that came since {version} any more")
    records: dict[bytes, bytes] = {}
    for _, change in journal(store, head.journal_from - 1, seq):
        records |= on_top(funnel, version, facts, change)
    return funnel.renewed(seq, form.decode(records) if records else None)


def catch_up(store: Store, version: str, funnel: Funnel) -> Funnel:
    """A funnel of the state after one change, brought forward to the last one of its version. Raises StoreError."""
    seq = funnel.manifest.items_seq
    _, head = StoreState.read(store)
    facts, until = head.facts(store, version), head.until(version)
    changes = journal(store, seq, until)
    if not facts.seq <= seq <= until or len(changes) < until - seq:
        # it was away and is live again, or the journal does not reach back so far
        return load_latest(store, version, funnel)
    records = {key: record for _, change in changes for key, record in change.records}
    if records:
        return funnel.renewed(until, RecordFormat.from_manifest(funnel.manifest).decode(records))
    return funnel if seq == until else funnel.renewed(until)

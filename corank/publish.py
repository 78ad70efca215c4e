"""Publishing: a bundle into a store, whole before it is live; newer items into the live version; roll-back.

All is written under the new version and verified; what was upserted since the bundle's items were read is put on top;
then the head is swapped. Killed at any point, the store has the old live version or the new one, and publishing the
same bundle again goes on where it stopped.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from corank.bundle import CHUNK, Bundle
from corank.codec import Form, ids_of
from corank.errors import CorankError, DataError, RequestError, StoreError
from corank.funnel import Funnel
from corank.head import Change, Head, Version, entry, journal, now
from corank.items import Layer
from corank.recall import find
from corank.stores import Store
from corank.survey import spell

MANIFEST = "manifest.json"
KEYS = "items/keys.arrow"
WRITTEN = b"written"
"""In a version's parts: how many records are written, and when that was, ms UTC."""
BLOCK = 16_384
"""Records written at once."""

Report = Callable[[str], object]
Progress = Callable[[int, int], object]
"""Told of records: so many of so many."""


class MovedError(CorankError):
    """Another version went live meanwhile; try again with it."""


class DamagedError(StoreError):
    """A version is not in the store as it was written."""


def publish(
    path: Path,
    store: Store,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> str:
    """Make a bundle the live version of a store; its name. One that is there is proven, and mended where it is damaged.

    Raises BundleError, StoreError.
    """
    bundle = Bundle.open(path)
    version, funnel = bundle.manifest.content, Funnel(bundle)
    _, head = Head.read(store)
    facts, unsound = head.versions.get(version), list[bytes]()
    if facts is not None:
        unsound = _unsound(store, version, Form.of(funnel.manifest))
        try:
            _verify(bundle, funnel, store, version)
        except DamagedError as damage:
            report(f"{damage}; it is written again")
            facts = None
    if facts is None:
        _write_parts(bundle, store, version)
        _write_items(funnel, store, version, report, progress)
        _verify(bundle, funnel, store, version)
        facts = _facts(funnel, version)
    elif unsound:
        report(f"{len(unsound):,} records ... are damaged")
        facts = facts.model_copy(update={"applied": 0})
    elif head.live == version:
        report(f"{version} is live already")
        return version
    make_live(store, version, funnel, facts, report)
    return version


def _facts(funnel: Funnel, version: str) -> Version:
    manifest = funnel.manifest
    return Version(
        name=manifest.name,
        model_version=manifest.model_version,
        items=len(funnel.receiver.items.layers[0].records.ids),
        items_at=manifest.items_at,
        published_at=now(),
        seq=0,
        applied=0,
        record=Form.of(funnel.manifest).fields,
    )


def carried(part: str) -> bool:
    """Whether a part of a bundle is kept as it is; the items' rows and vectors are kept as records."""
    return not part.startswith("items/") or part == KEYS


def _write_parts(bundle: Bundle, store: Store, version: str) -> None:
    table = f"parts/{version}"
    for part in filter(carried, bundle.manifest.parts):
        with (bundle.folder / part).open("rb") as file:
            for n, chunk in enumerate(iter(lambda: file.read(CHUNK), b"")):
                store.put({table: [(f"{part}/{n}".encode(), chunk)]})
    manifest = msgspec.json.encode(bundle.manifest.plain())
    store.put({table: [(MANIFEST.encode(), manifest)]})


def _write_items(funnel: Funnel, store: Store, version: str, report: Report, progress: Progress) -> None:
    """In the order of the keys, from where an earlier try stopped: with each block it is noted how far it came."""
    (layer,) = funnel.receiver.items.layers
    parts, form, total = f"parts/{version}", Form.of(funnel.manifest), len(layer.records.ids)
    first = written(store, version)[0]
    if first:
        report(f"{version}: {first:,} of {total:,} records are there from an earlier try")
    for start in range(first, total, BLOCK):
        index = np.arange(start, min(start + BLOCK, total))
        noted = msgspec.json.encode([int(index[-1]) + 1, now()])
        store.put({f"items/{version}": form.encoded(layer, index), parts: [(WRITTEN, noted)]})
        progress(int(index[-1]) + 1, total)


def written(store: Store, version: str) -> tuple[int, int]:
    """How many records of a version are written, and when it was last worked on, ms UTC."""
    (raw,) = store.get(f"parts/{version}", [WRITTEN])
    done, at = msgspec.json.decode(raw) if raw else (0, 0)
    return done, at


def _verify(bundle: Bundle, funnel: Funnel, store: Store, version: str) -> None:
    """That every part and record arrived as it was. Raises StoreError."""
    for part, facts in bundle.manifest.parts.items():
        if carried(part):
            digest = hashlib.sha256()
            for chunk in chunks(store, version, part, facts.bytes):
                digest.update(chunk)
            if digest.hexdigest() != facts.sha256:
                raise StoreError(
                    f"{store.address}: part {part} of {version} did not arrive whole; publish again"
                )
    form, (layer,) = Form.of(funnel.manifest), funnel.receiver.items.layers
    seen = np.zeros(len(layer.records.ids), dtype=bool)
    for pairs in store.scan(f"items/{version}"):
        sound = [key for key, record in pairs if form.sound(key, record)]
        place = layer.records.ids.find(ids_of(sound)) if sound else np.empty(0, dtype=np.int64)
        seen[place[place >= 0]] = True
    if not seen.all():
        store.put({f"parts/{version}": [(WRITTEN, msgspec.json.encode([0, now()]))]})
        raise StoreError(
            f"{store.address}: {(~seen).sum():,} of {len(seen):,} records of {version} did not arrive whole; what is "
            "live is untouched; publish again"
        )


def chunks(store: Store, version: str, part: str, size: int) -> Iterator[bytes]:
    """A part of a version, piece by piece. Raises StoreError for one that is missing."""
    for n in range(-(-size // CHUNK)):
        (chunk,) = store.get(f"parts/{version}", [f"{part}/{n}".encode()])
        if chunk is None:
            raise StoreError(f"{store.address}: part {part} of {version} is not whole; publish it again")
        yield chunk


def make_live(store: Store, version: str, funnel: Funnel, facts: Version, report: Report) -> int:
    """Swap the head to a version that is whole, with all that was upserted meanwhile; the number of the change.

    Raises StoreError.
    """
    applied = facts.applied
    while True:
        raw, head = Head.read(store)
        came = [u for _, u in journal(store, applied, head.seq) if u.at >= facts.items_at]
        for upsert in came:
            store.put({f"changed/{version}": recomputed(funnel, upsert, report)})
        if came:
            report(f"{sum(len(u.items) for u in came):,} items came since {version} was read: put on top")
        applied = head.seq
        after = head.switched(version, facts)
        if store.swap(raw, after.written()):
            return after.seq


def recomputed(funnel: Funnel, upsert: Upsert, report: Report) -> list[tuple[bytes, bytes]]:
    """Items that came under another version, as records of this one; what its features refuse is told and left out."""
    known, form = funnel.receiver.item_columns, Form.of(funnel.manifest)
    rows = [
        {name: value for name, value in row.items() if name in known or name == "id"} for row in upsert.items
    ]
    try:
        pairs = form.encoded(described(funnel, rows), np.arange(len(rows)))
    except CorankError:
        pairs = []
        for row in rows:
            try:
                pairs += form.encoded(described(funnel, [row]), np.arange(1))
            except CorankError as error:
                report(f"item {row['id']!r} is left out: {error}")
    return pairs


def described(funnel: Funnel, items: list[dict[str, Any]]) -> Layer:
    """Items of an `id` and columns each, as records. Raises RequestError."""
    columns = [{name: value for name, value in row.items() if name != "id"} for row in items]
    return funnel.receiver.described([row["id"] for row in items], columns)


def upsert(store: Store, version: str, funnel: Funnel, items: list[dict[str, Any]]) -> int:
    """Put new or changed items, `id` and columns each, into the live version; the number of the change.

    A column that is not given is missing from then on. Raises RequestError for items that the features refuse,
    MovedError if `version` is not live any more, StoreError.
    """
    pairs = Form.of(funnel.manifest).encoded(described(funnel, items), np.arange(len(items)))
    entry = msgspec.msgpack.encode(Upsert(version, now(), items, pairs))
    while True:
        raw, head = Head.read(store)
        if head.live != version:
            raise MovedError(f"{store.address}: {head.live} is live, {version} was when the items were read")
        after = head.model_copy(update={"seq": head.seq + 1})
        entries = {
            f"changed/{version}": pairs,
            JOURNAL: [(journal_key(after.seq), entry)],
        }
        if store.swap(raw, after.written(), entries):
            return after.seq

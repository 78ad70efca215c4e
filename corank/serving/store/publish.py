"""Publishing: a bundle into a store, whole before it is live; newer items into the live version; roll-back.

All is written under the new version and verified; what was upserted since the bundle's items were read is put on top;
then the head is swapped. Killed at any point, the store has the old live version or the new one, and publishing the
same bundle again goes on where it stopped.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from corank.bundle.bundle import CHUNK, Bundle
from corank.bundle.manifest import FORMAT, BundleManifest, Part, read_manifest
from corank.core.errors import CorankError, RequestError, StoreError
from corank.core.time import format_time, now_ms
from corank.core.types import Progress, Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store
from corank.serving.store.live_version import Change, StoreState, Version, entry, journal
from corank.serving.store.record_codec import RecordFormat, to_ids

MANIFEST = b"manifest.json"
KEYS = "items/keys.arrow"
WRITTEN = b"written"
"""In a version's parts: how many records are written, and when that was, ms UTC."""
BLOCK = 16_384
"""Records written at once."""


class VersionChangedError(CorankError):
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
    _, head = StoreState.read(store)
    facts, unsound = (
        head.versions.get(version),
        _unsound(store, version, RecordFormat.from_manifest(funnel.manifest)),
    )
    if facts is None or not _whole(bundle, funnel, store, version, report):
        _write_parts(bundle, store, version)
        _write_items(funnel, store, version, report, progress)
        _verify(bundle, funnel, store, version)
        facts = _facts(funnel, version)
    elif head.live == version and not unsound:
        report(f"{version} is live already")
        return version
    make_live(store, version, funnel, facts, report, unsound)
    return version


def _facts(funnel: Funnel, version: str) -> Version:
    manifest = funnel.manifest
    return Version(
        name=manifest.name,
        model_version=manifest.model_version,
        items=len(funnel.request_encoder.items.layers[0].records.ids),
        items_at=manifest.items_at,
        published_at=now_ms(),
        seq=0,
        applied=0,
        manifest=hashlib.sha256(_written(manifest)).hexdigest(),
        record=RecordFormat.from_manifest(funnel.manifest).fields,
    )


def _written(manifest: BundleManifest) -> bytes:
    return msgspec.json.encode(manifest.plain())


def carried(part: str) -> bool:
    """Whether a part of a bundle is kept as it is; the items' rows and vectors are kept as records."""
    return not part.startswith("items/") or part == KEYS


def _write_parts(bundle: Bundle, store: Store, version: str) -> None:
    table = f"parts/{version}"
    store.put(_note(version, written(store, version)[0]))
    for part in filter(carried, bundle.manifest.parts):
        with (bundle.folder / part).open("rb") as file:
            for n, chunk in enumerate(iter(lambda: file.read(CHUNK), b"")):
                store.put({table: [(f"{part}/{n}".encode(), chunk)]})
    store.put({table: [(MANIFEST, _written(bundle.manifest))]})


def _write_items(funnel: Funnel, store: Store, version: str, report: Report, progress: Progress) -> None:
    """In the order of the keys, from where an earlier try stopped: with each block it is noted how far it came."""
    (layer,) = funnel.request_encoder.items.layers
    form, total = RecordFormat.from_manifest(funnel.manifest), len(layer.records.ids)
    first = written(store, version)[0]
    if first:
        report(f"{version}: {first:,} of {total:,} records are there from an earlier try")
    for start in range(first, total, BLOCK):
        index = np.arange(start, min(start + BLOCK, total))
        done = int(index[-1]) + 1
        store.put({f"items/{version}": form.encode(layer, index)} | _note(version, done))
        progress(done, total)


def _note(version: str, done: int) -> dict[str, list[tuple[bytes, bytes]]]:
    """That so many records of a version are written, and that somebody works on it."""
    return {f"parts/{version}": [(WRITTEN, msgspec.json.encode([done, now_ms()]))]}


def written(store: Store, version: str) -> tuple[int, int]:
    """How many records of a version are written, and when it was last worked on, ms UTC."""
    (raw,) = store.get(f"parts/{version}", [WRITTEN])
    done, at = msgspec.json.decode(raw) if raw else (0, 0)
    return done, at


def _verify(bundle: Bundle, funnel: Funnel, store: Store, version: str) -> None:
    """That every record and part arrived as it was. Raises DamagedError, StoreError."""
    form, (layer,) = RecordFormat.from_manifest(funnel.manifest), funnel.request_encoder.items.layers
    seen = np.zeros(len(layer.records.ids), dtype=bool)
    for pairs in store.scan(f"items/{version}"):
        sound = [key for key, record in pairs if form.is_intact(key, record)]
        place = layer.records.ids.find(to_ids(sound)) if sound else np.empty(0, dtype=np.int64)
        seen[place[place >= 0]] = True
    if not seen.all():
        store.put(_note(version, 0))
        raise DamagedError(
            f"{store.address}: {(~seen).sum():,} of {len(seen):,} records of {version} are not whole; what is live is "
            "untouched; publish it again"
        )
    for part in filter(carried, bundle.manifest.parts):
        for _ in chunks(store, version, part, bundle.manifest.parts[part]):
            pass
    if store.get(f"parts/{version}", [MANIFEST]) != [_written(bundle.manifest)]:
        raise _damaged(store, version, "the manifest")


def _whole(bundle: Bundle, funnel: Funnel, store: Store, version: str, report: Report) -> bool:
    """Whether a version that is there is as it was written."""
    try:
        _verify(bundle, funnel, store, version)
    except DamagedError as error:
        report(str(error))
        return False
    return True


def _unsound(store: Store, version: str, form: RecordFormat) -> list[bytes]:
    """The keys of damaged records among those that came since a version's bundle."""
    pairs = (pair for some in store.scan(f"changed/{version}") for pair in some)
    return [key for key, record in pairs if not form.is_intact(key, record)]


def chunks(store: Store, version: str, part: str, facts: Part) -> Iterator[bytes]:
    """A part of a version, piece by piece. Raises DamagedError, at the end, for one that is not as it was written."""
    digest = hashlib.sha256()
    for n in range(-(-facts.bytes // CHUNK)):
        (chunk,) = store.get(f"parts/{version}", [f"{part}/{n}".encode()])
        digest.update(chunk or b"")
        yield chunk or b""
    if digest.hexdigest() != facts.sha256:
        raise _damaged(store, version, part)


def read_stored_manifest(store: Store, version: str) -> BundleManifest:
    """Raises StoreError for a version that is not there, or is of another release; DamagedError."""
    _, head = StoreState.read(store)
    facts = head.facts(store, version)
    (raw,) = store.get(f"parts/{version}", [MANIFEST])
    if raw is None or hashlib.sha256(raw).hexdigest() != facts.manifest:
        raise _damaged(store, version, "the manifest")
    plain = msgspec.json.decode(raw)
    if plain["format"] != FORMAT:
        raise StoreError(
            f"{store.address}: {version} is of format {plain['format']}; this corank reads format {FORMAT}; export it "
            "with this one and publish that"
        )
    return read_manifest(plain, f"{store.address}: {version}", "publish the bundle again")


def _damaged(store: Store, version: str, part: str) -> DamagedError:
    return DamagedError(f"{store.address}: {part} of {version} is not whole; publish it again")


def make_live(
    store: Store, version: str, funnel: Funnel, facts: Version, report: Report, unsound: Sequence[bytes] = ()
) -> int:
    """Swap the head to a version that is whole, with all that was upserted meanwhile; the number of the change.

    Damaged records on top of it, `unsound` by key, go; the journal has what they were. Raises StoreError.
    """
    applied, items = 0 if unsound else facts.applied, 0
    records: dict[bytes, bytes] = {}
    while True:
        raw, head = StoreState.read(store)
        if facts.seq and version not in head.versions:
            raise StoreError(f"{store.address}: {version} was removed meanwhile; publish it again")
        for _, change in journal(store, max(applied, head.journal_from - 1), head.seq):
            came = on_top(funnel, version, facts, change, report)
            records |= came
            items += len(came)
        applied = head.seq
        after = head.switched(version, facts)
        put = {f"changed/{version}": list(records.items())} | entry(after.seq, Change(version, now_ms()))
        if store.swap(raw, after.written(), put, {f"changed/{version}": unsound}):
            break
    if items:
        report(f"{items:,} items came since {version} was read: put on top")
    if not head.tells(facts) and facts.applied < head.journal_from - 1:
        report(
            f"{version} was read at {format_time(facts.items_at)}, and items that came up to "
            f"{format_time(head.journal_at)} are in the journal no more: those that it lacks must be put in again"
        )
    return after.seq


def on_top(
    funnel: Funnel, version: str, facts: Version, change: Change, report: Report = lambda line: None
) -> dict[bytes, bytes]:
    """By key, the records that a change puts on top of a version."""
    if change.version == version:
        return dict(change.records)
    return _recomputed(funnel, change, report) if change.at >= facts.items_at else {}


def _recomputed(funnel: Funnel, change: Change, report: Report) -> dict[bytes, bytes]:
    """Items that came under another version, as records of this one; what its features refuse is told and left out."""
    known = {*funnel.request_encoder.item_columns, "id"}
    rows = [{name: value for name, value in row.items() if name in known} for row in change.items]
    try:
        return dict(_encoded(funnel, rows)) if rows else {}
    except RequestError:
        pairs: list[tuple[bytes, bytes]] = []
        for row in rows:
            try:
                pairs += _encoded(funnel, [row])
            except RequestError as error:
                report(f"item {row['id']!r} is left out: {error}")
        return dict(pairs)


def _encoded(funnel: Funnel, items: Sequence[Mapping[str, Any]]) -> list[tuple[bytes, bytes]]:
    """Key and record of items of an `id` and columns each. Raises RequestError."""
    columns = [{name: value for name, value in row.items() if name != "id"} for row in items]
    layer = funnel.request_encoder.encode_items([row["id"] for row in items], columns)
    return RecordFormat.from_manifest(funnel.manifest).encode(layer, np.arange(len(items)))


def upsert(store: Store, version: str, funnel: Funnel, items: list[dict[str, Any]]) -> int:
    """Put new or changed items, `id` and columns each, into the live version; the number of the change.

    A column that is not given is missing from then on. Raises RequestError for items that the features refuse,
    VersionChangedError if `version` is not live any more, or not the funnel's; StoreError.
    """
    if funnel.manifest.content != version:
        raise VersionChangedError(
            f"{store.address}: {version} is live, items were read as of {funnel.manifest.content}"
        )
    change = Change(version, now_ms(), items, _encoded(funnel, items))
    while True:
        raw, head = StoreState.read(store)
        if head.live != version:
            raise VersionChangedError(
                f"{store.address}: {head.live} is live, {version} was when the items were read"
            )
        after = head.model_copy(update={"seq": head.seq + 1})
        put = {f"changed/{version}": change.records} | entry(after.seq, change)
        if store.swap(raw, after.written(), put):
            return after.seq

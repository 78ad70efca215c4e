"""A store's version → a bundle on this machine's disk, which all who serve it map into memory, and later changes.

The bundle is fetched once. Items that were upserted since are a layer in memory: a follower reads them from the
journal, change by change, so that it always serves the state after one change, complete.

While a service answers requests, a process of its own fetches the next version: decoding a million records takes
seconds of a core. It rests as long as it has worked, block by block, and its priority is low, but not the lowest: that
would be a 70th of a core that others want, and a swap would take minutes.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import polars as pl

from corank.bundle.bundle import Bundle
from corank.bundle.content import part_file
from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import KEYS
from corank.bundle.manifest import BundleManifest
from corank.bundle.signatures import TrustedKeys, is_content_name
from corank.core.arrays import read_identifiers
from corank.core.artifact import ArtifactWriter, Proofs, prove
from corank.core.errors import BundleError, DataError, StoreError, TrustError
from corank.core.locks import hold_lock
from corank.core.registry import load_environment_plugins
from corank.core.reports import Report
from corank.core.stored_matrix import append_rows
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Store, open_store
from corank_serve.store.journal import follows, read_journal
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import BLOCK
from corank_serve.store.record_codec import RecordFormat, to_ids, to_keys
from corank_serve.store.upsert import changed_records
from corank_serve.store.version_parts import (
    ITEM_KEYS,
    DamagedError,
    is_stored_part,
    read_chunks,
    read_stored_manifest,
)

Pause = Callable[[], None]

KEPT = 4
"""Bundles in a cache: a recent version may go live again."""
TRIES = 5
"""How often a version is read whose changes were lost meanwhile."""


def fetch_bundle(
    store: Store,
    version: str,
    cache: Path,
    trust: TrustedKeys | None = None,
    proofs: Proofs | None = None,
    pause: Pause = lambda: None,
) -> Bundle:
    """Fetch the bundle of a version into a cache, unless it is there.

    Processes that fetch the same version at once fetch it once. The cache keeps the versions that were used last.

    Args:
        store: the store.
        version: its name.
        cache: a folder.
        trust: keys, one of which must have signed the version; None if it need not be signed.
        proofs: of bundles that were verified, which are not read again; this one's is added.
        pause: called after each block of records.

    Raises StoreError, BundleError, TrustError.
    """
    if not is_content_name(version):
        raise StoreError(
            f"{store.address}: {version[:200]!r} is no name of a version; publish a bundle again"
        )
    path, proofs = cache / version, set() if proofs is None else proofs
    with locked(cache / f".{version}.lock"):
        if path.is_symlink():
            raise BundleError(f"{path}: a link, and bundles are written into the cache alone; remove it")
        try:
            bundle = open_cached(cache, version, trust, proofs)
        except (BundleError, TrustError):
            manifest, plain = read_stored_manifest(store, version, trust)
            with ArtifactWriter.lock(path, BundleManifest, "serve") as writer:
                bundle = Bundle.of(
                    writer.restore(
                        manifest,
                        plain,
                        lambda folder: _fill(folder, store, manifest, pause),
                        lambda: _refuse_damage(store, manifest),
                    )
                )
                with suppress(OSError):
                    proofs.add(prove(bundle.folder, bundle.manifest))
        _remove_old(path)
    return bundle


def open_cached(
    cache: Path, version: str, trust: TrustedKeys | None = None, proofs: Proofs | None = None
) -> Bundle:
    """Open the bundle of a version in a cache. Arguments as of `fetch_bundle`. Raises BundleError, TrustError."""
    bundle = Bundle.open(cache / version, trust, proofs)
    if bundle.manifest.content != version:
        raise BundleError(f"{cache / version}: holds {bundle.manifest.content}; remove it")
    return bundle


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait for a lock, whose folder is made. Raises BundleError."""
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(file))
        except OSError as error:
            raise BundleError(f"{file.parent}: bundles cannot be kept there: {error}") from None
        yield


def _remove_old(path: Path) -> None:
    """Remove versions that were not used lately; a process that has one mapped keeps its files until it ends."""
    with suppress(OSError):  # another process may do the same
        os.utime(path)
        versions = [one for one in path.parent.iterdir() if is_content_name(one.name)]
        for old in sorted(versions, key=lambda one: one.stat().st_mtime_ns)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _require_space(folder: Path, version: str, manifest: BundleManifest) -> None:
    """Raise BundleError unless the disk of a folder has room for a version: its manifest tells the size."""
    needed, free = manifest.size, shutil.disk_usage(folder).free
    if needed > free:
        raise BundleError(
            f"{folder}: {version} needs {needed:,} bytes, and {free:,} are free; make room, or name another --cache"
        )


def _fill(folder: Path, store: Store, manifest: BundleManifest, pause: Pause) -> None:
    """Write the files of a version, whose checksums are then compared. Raises StoreError, BundleError, OSError."""
    version = manifest.content
    _require_space(folder, version, manifest)
    if not any(part.startswith(ITEM_KEYS) for part in manifest.files):
        raise DamagedError(f"{store.address}: {version} has no {ITEM_KEYS}npy; publish it again")
    for part in filter(is_stored_part, manifest.files):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        with (folder / part).open("wb") as file:
            file.writelines(read_chunks(store, version, part, manifest.files[part]))
    _write_items(folder, store, manifest, pause)


def _write_items(folder: Path, store: Store, manifest: BundleManifest, pause: Pause) -> None:
    """Write the records of the bundle's items in their order, block by block; parts, which are most of them, at once.

    Raises StoreError if a record is missing.
    """
    version, form = manifest.content, RecordFormat.from_manifest(manifest)
    try:
        keys = to_keys(read_identifiers(folder / "items", KEYS))
    except DataError as error:
        raise DamagedError(f"{store.address}: {version}: {error}; publish it again") from None
    layers: list[ItemLayer] = []
    with ExitStack() as stack:
        append = {
            part: stack.enter_context(append_rows(part_file(folder, part), (len(keys), width), precision))
            for part, width, precision in form.parts
        }
        for first in range(0, len(keys), BLOCK):
            records = _read_records(store, version, keys[first : first + BLOCK])
            layer = form.decode(records, verify=False)
            for part, matrix in layer.parts.items():
                append[part](matrix)
            layers.append(replace(layer, parts={}))
            pause()
    ItemLayer.concat(layers).records.save_values(folder / "items")


def _read_records(store: Store, version: str, keys: list[bytes]) -> dict[bytes, bytes]:
    """Read records by key. Raises DamagedError if one is missing."""
    values = store.get(f"items/{version}", keys)
    records = {key: record for key, record in zip(keys, values, strict=True) if record is not None}
    if len(records) < len(keys):
        raise DamagedError(
            f"{store.address}: {len(keys) - len(records)} records of {version} are missing; publish it again"
        )
    return records


def _refuse_damage(store: Store, manifest: BundleManifest) -> None:
    """Raise StoreError, which names the item, if a record of a version is damaged."""
    form = RecordFormat.from_manifest(manifest)
    for pairs in store.scan(f"items/{manifest.content}"):
        form.decode(dict(pairs))


def load_latest(store: Store, version: str, funnel: Funnel, report: Report = lambda line: None) -> Funnel:
    """Apply all changes since a version's bundle to its funnel, up to one change.

    Items that other versions' services put in are encoded by this one, in memory; `report` receives which ones it
    refuses. Raises StoreError.
    """
    bare = funnel.with_items(LayeredItems(funnel.request_encoder.items.layers[:1]))
    for _ in range(TRIES):
        _, state = StoreState.read(store)
        facts, position = state.require_version(store, version), state.applied_until(version)
        records = {key: record for pairs in store.scan(f"changed/{version}") for key, record in pairs}
        expected = facts.changed
        if len(records) < expected:
            raise DamagedError(
                f"{store.address}: {expected - len(records):,} of {expected:,} changed items of {version} are missing; "
                "publish it again"
            )
        # a record may be newer than the state that was read: later changes are applied once more
        latest = _catch_up(store, version, _apply(bare, *position, records), report)
        if latest is not None:
            return latest
    raise StoreError(f"{store.address}: {version} changes faster than it can be read")


def restore(store: Store, version: str, funnel: Funnel, seq: int) -> Funnel:
    """Bring the funnel of a version's bundle to the state after an earlier change.

    Raises StoreError if the journal does not reach back so far.
    """
    _, state = StoreState.read(store)
    facts = state.require_version(store, version)
    if not state.journal_covers(facts):
        raise StoreError(f"{store.address}: the journal has not all that came since {version} any more")
    records: dict[bytes, bytes] = {}
    last, id_ = facts.base, ""
    for number, change in read_journal(store, facts.base, seq):
        if number != last + 1:
            raise StoreError(f"{store.address}: the journal has no change {last + 1:,}")
        records |= changed_records(funnel, version, change)
        last, id_ = number, change.id
    return _apply(funnel, seq, id_, records)


def catch_up(store: Store, version: str, funnel: Funnel, report: Report = lambda line: None) -> Funnel:
    """Apply to a version's funnel, live or not, at one change, all later changes.

    Where the journal does not lead from the one to the other, all is read anew. `report` as of `load_latest`. Raises
    StoreError.
    """
    newer = _catch_up(store, version, funnel, report)
    return load_latest(store, version, funnel, report) if newer is None else newer


def _catch_up(store: Store, version: str, funnel: Funnel, report: Report) -> Funnel | None:
    """As `catch_up`; None if the version was replaced and is live again, or the journal does not lead to the head."""
    seq, id_ = funnel.manifest.items_seq, funnel.manifest.items_id
    _, state = StoreState.read(store)
    facts, until, last = state.require_version(store, version), state.seq, state.id
    if not facts.seq <= seq <= until:
        return None
    changes = list(read_journal(store, seq, until))
    if not follows(changes, seq, id_, until, last):
        return None
    if seq == until:
        return funnel
    records: dict[bytes, bytes] = {}
    for _, change in changes:
        records |= changed_records(funnel, version, change, report)
    return _apply(funnel, until, last, records)


def _apply(funnel: Funnel, seq: int, id_: str, records: Mapping[bytes, bytes]) -> Funnel:
    """Apply changed items to a funnel, at a change. Raises StoreError, which names an item that does not fit."""
    layer, gone = _decode_changes(funnel, records)
    try:
        return funnel.with_changes(seq, id_, layer, gone)
    except StoreError as error:
        if len(records) == 1:
            raise StoreError(f"item {to_ids(records)[0]!r}: {error}") from None
        keys = sorted(records)
        for some in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
            _apply(funnel, seq, id_, {key: records[key] for key in some})
        raise


def _decode_changes(
    funnel: Funnel, records: Mapping[bytes, bytes]
) -> tuple[ItemLayer | None, pl.Series | None]:
    """Decode records to a layer of a funnel's items, and the ids of removed ones; None for none. Raises StoreError."""
    form = RecordFormat.from_manifest(funnel.manifest)
    kept = {key: record for key, record in records.items() if not form.is_removal(key, record)}
    layer = form.decode(kept) if kept else None
    dtype = funnel.request_encoder.items.layers[0].records.ids.values.dtype
    removed = form.removed_ids(records)
    known = None if layer is None else layer.records.ids.values
    for ids in (removed, known):
        if ids is not None and ids.dtype != dtype:
            raise StoreError("the keys of changed items are of another type than the bundle's; publish again")
    return layer, removed


NICENESS = 10
"""A ninth of a core that a worker wants, too: a swap's time is bounded on a core that is never idle."""
WORK = 0.5
"""Share of the time in which it works."""


def fetch_in_subprocess(url: str, cache: Path, version: str) -> bytes | None:
    """Fetch a version into a cache, and return its proof; None if that failed, which the next fetch reports."""
    # by standard input, since others can read arguments, and a URL may hold a password
    arguments = json.dumps([url, str(cache), version])
    command = ["nice", "-n", str(NICENESS), sys.executable, "-m", "corank_serve.store.fetch"]
    try:
        done = subprocess.run(command, input=arguments, text=True, capture_output=True, check=False)
        return bytes.fromhex(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError):  # or a plug-in has written there, too
        return None


def fetch_named_version() -> None:
    """Fetch the version that standard input names, with the plug-ins of the environment."""
    with suppress(AttributeError, OSError):  # Linux: it never takes the core from a worker that wakes up
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    load_environment_plugins()
    url, cache, version = json.load(sys.stdin)
    proofs = set[bytes]()
    fetch_bundle(open_store(url), version, Path(cache), proofs=proofs, pause=pace_work())
    print(*(proof.hex() for proof in proofs))


def pace_work() -> Pause:
    """What sleeps in proportion to the processor time since the last call, so that a process works a share of it."""
    worked = time.process_time()

    def pause() -> None:
        nonlocal worked
        before, worked = worked, time.process_time()
        time.sleep((worked - before) * (1 - WORK) / WORK)

    return pause


if __name__ == "__main__":
    fetch_named_version()

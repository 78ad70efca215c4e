"""A store's version → a bundle on this machine's disk, memory-mapped by all who serve it; and what came since.

The bundle is fetched once. Items that were upserted lie on top of it, in memory: who follows the store reads what came
from its journal, change by change, so that what is served is the state of one change, whole.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from corank.arrays import read_frame
from corank.bundle import Bundle, Manifest, write
from corank.codec import Form, keys_of
from corank.errors import BundleError, StoreError
from corank.funnel import Funnel
from corank.head import Head, journal
from corank.items import Layer
from corank.publish import BLOCK, KEYS, MANIFEST, carried, chunks, recomputed
from corank.settings import validated
from corank.stores import Store
from corank.vectors import save_vectors


def fetched(store: Store, version: str, cache: Path) -> Bundle:
    """The bundle of a version, in `cache`, from where it is taken if it is there. Raises StoreError, BundleError.

    Processes that ask for one version at once fetch it once.
    """
    path = cache / version
    path.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{version}.lock"):
        try:
            return Bundle.open(path / "bundle")
        except BundleError:
            return write(
                path / "bundle", _manifest(store, version), lambda folder: _fill(folder, store, version)
            )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; let go of when it ends, be it by a signal."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _manifest(store: Store, version: str) -> Manifest:
    (raw,) = store.get(f"parts/{version}", [MANIFEST.encode()])
    if raw is None:
        raise StoreError(f"{store.address}: there is no version {version}; `corank store ls` lists them")
    return validated(Manifest, msgspec.json.decode(raw), f"{store.address}: {version}")


def _fill(folder: Path, store: Store, version: str) -> None:
    manifest = _manifest(store, version)
    for part, facts in manifest.parts.items():
        if carried(part):
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            with (folder / part).open("wb") as file:
                for chunk in chunks(store, version, part, facts.bytes):
                    file.write(chunk)
    layer = _items(folder, store, version, Form.of(manifest))
    layer.records.save(folder / "items")
    save_vectors(folder, layer.vectors)


def _items(folder: Path, store: Store, version: str, form: Form) -> Layer:
    """The records of the bundle's items, block by block in their order; raises StoreError for one that is not there."""
    keys = keys_of(read_frame(folder / KEYS).to_series())
    layers = []
    for first in range(0, len(keys), BLOCK):
        some = keys[first : first + BLOCK]
        found = store.get(f"items/{version}", some)
        held = {key: record for key, record in zip(some, found, strict=True) if record is not None}
        if len(held) < len(some):
            raise StoreError(
                f"{store.address}: {len(some) - len(held)} records of {version} are missing; publish it again"
            )
        layers.append(form.decoded(held))
    return Layer.joined(layers)


def newest(store: Store, version: str, funnel: Funnel) -> Funnel:
    """A version's funnel with all that came since its bundle, as of one change. Raises StoreError."""
    _, head = Head.read(store)
    form = Form.of(funnel.manifest)
    records = {key: record for pairs in store.scan(f"changed/{version}") for key, record in pairs}
    # a record may be newer than the head that was read: what came since is put on top once more
    return caught_up(store, version, funnel.renewed(head.seq, form.decoded(records) if records else None))


def as_of(store: Store, version: str, funnel: Funnel, seq: int) -> Funnel:
    """A version's funnel, its bundle's, brought to the state after an earlier change.

    Raises StoreError where the journal does not reach back so far.
    """
    _, head = Head.read(store)
    facts, form = head.versions[version], Form.of(funnel.manifest)
    for number, upsert in journal(store, 0, seq):
        if upsert.version == version:
            funnel = funnel.renewed(number, form.decoded(dict(upsert.records)))
        elif upsert.at >= facts.items_at:
            records = dict(recomputed(funnel, upsert, lambda line: None))
            funnel = funnel.renewed(number, form.decoded(records) if records else None)
    return funnel.renewed(seq)


def caught_up(store: Store, version: str, funnel: Funnel) -> Funnel:
    """A funnel of the state after one change, brought forward to the last one. Raises StoreError."""
    seq = funnel.manifest.items_seq
    _, head = Head.read(store)
    if seq + 1 < head.journal_from:
        return newest(store, version, funnel)
    form = Form.of(funnel.manifest)
    for _, upsert in journal(store, seq, head.seq):
        if upsert.version == version:
            funnel = funnel.renewed(head.seq, form.decoded(dict(upsert.records)))
    return funnel if seq == head.seq else funnel.renewed(head.seq)

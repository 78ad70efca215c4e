"""Publish a bundle: write it into a store completely, then make it live.

All is written under the new version's name and verified, items that were upserted since the bundle's items were read
are applied, and the head is swapped. Killed at any point, the store has the old live version or the new one; publishing
the same bundle again continues where it stopped.
"""

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from corank.bundle.bundle import Bundle
from corank.bundle.manifest import BundleManifest, digest, signed_content
from corank.bundle.signatures import Signature, SigningKeys
from corank.core.time import now_ms
from corank.core.types import Progress, Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store
from corank.serving.store.go_live import make_live
from corank.serving.store.live_version import StoreState, VersionFacts
from corank.serving.store.record_codec import RecordFormat, to_ids
from corank.serving.store.version_parts import (
    DamagedError,
    encode_manifest,
    progress_entry,
    read_progress,
    verify_parts,
    write_parts,
)

BLOCK = 16_384
"""Records written at once."""


def publish_bundle(
    path: Path,
    store: Store,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
    sign: SigningKeys | None = None,
) -> str:
    """Make a bundle the live version of a store. A version that is there is verified, and repaired if it is damaged.

    Args:
        path: folder of the bundle.
        store: the store.
        report: receives what is done.
        progress: receives how many records are written.
        sign: keys that sign the version, and that it is live.

    Returns:
        The name of the version.

    Raises BundleError, StoreError.

    Example:
        with closing(open_store("lmdb:store", create=True)) as store:
            publish_bundle(Path("bundle"), store)
    """
    bundle = Bundle.open(path)
    version, funnel = bundle.manifest.content, Funnel(bundle)
    _, state = StoreState.read(store)
    facts, damaged = state.versions.get(version), _damaged_changes(store, version, funnel)
    if facts is None or not _is_intact(bundle, funnel, store, version, report):
        write_parts(bundle, store, version)
        _write_items(funnel, store, version, report, progress)
        _verify(bundle, funnel, store, version)
        facts = _make_facts(funnel)
    elif state.live == version and not damaged and _is_signed(state, sign):
        report(f"{version} is live already")
        return version
    facts = facts.model_copy(update={"signatures": _sign_manifest(bundle.manifest, facts, sign, report)})
    make_live(store, version, funnel, facts, report, damaged, sign)
    return version


def _is_signed(state: StoreState, sign: SigningKeys | None) -> bool:
    """Whether all keys have signed what is live."""
    statement = state.statement
    return sign is None or (
        statement is not None and sign.have_signed(statement.content, statement.signatures)
    )


def _sign_manifest(
    manifest: BundleManifest, facts: VersionFacts, sign: SigningKeys | None, report: Report
) -> list[Signature]:
    """The signatures of a version's manifest: those of the keys, of the bundle, and those that the store has."""
    content = signed_content(msgspec.json.decode(encode_manifest(manifest)))
    held = {one.key: one for one in facts.signatures}
    if digest(manifest.plain()) == manifest.digest:
        held |= {one.key: one for one in manifest.signatures}
    elif manifest.signatures:
        report(
            "the bundle was signed by an earlier release: its signatures are not published; give --sign KEY"
        )
    return sign.add(content, list(held.values())) if sign is not None else list(held.values())


def _make_facts(funnel: Funnel) -> VersionFacts:
    manifest = funnel.manifest
    return VersionFacts(
        name=manifest.name,
        model_version=manifest.model_version,
        items=len(funnel.request_encoder.items.layers[0].records.ids),
        items_at=manifest.items_at,
        published_at=now_ms(),
        seq=0,
        applied=0,
        manifest=hashlib.sha256(encode_manifest(manifest)).hexdigest(),
        record=RecordFormat.from_manifest(funnel.manifest).fields,
    )


def _write_items(funnel: Funnel, store: Store, version: str, report: Report, progress: Progress) -> None:
    """Write the records in the order of their keys, from where an earlier attempt stopped, with its progress."""
    (layer,) = funnel.request_encoder.items.layers
    form, total = RecordFormat.from_manifest(funnel.manifest), len(layer.records.ids)
    first = read_progress(store, version)[0]
    if first:
        report(f"{version}: {first:,} of {total:,} records are there from an earlier try")
    for start in range(first, total, BLOCK):
        index = np.arange(start, min(start + BLOCK, total))
        done = int(index[-1]) + 1
        store.put({f"items/{version}": form.encode(layer, index)} | progress_entry(version, done))
        progress(done, total)


def _verify(bundle: Bundle, funnel: Funnel, store: Store, version: str) -> None:
    """Check that every record and part arrived as it is in the bundle. Raises DamagedError, StoreError."""
    form, (layer,) = RecordFormat.from_manifest(funnel.manifest), funnel.request_encoder.items.layers
    intact = np.zeros(len(layer.records.ids), dtype=bool)
    for pairs in store.scan(f"items/{version}"):
        keys = [key for key, record in pairs if form.is_intact(key, record)]
        positions = layer.records.ids.find(to_ids(keys)) if keys else np.empty(0, dtype=np.int64)
        intact[positions[positions >= 0]] = True
    if not intact.all():
        store.put(progress_entry(version, 0))
        raise DamagedError(
            f"{store.address}: {(~intact).sum():,} of {len(intact):,} records of {version} are not whole; what is live "
            "is untouched; publish it again"
        )
    verify_parts(bundle, store, version)


def _is_intact(bundle: Bundle, funnel: Funnel, store: Store, version: str, report: Report) -> bool:
    """Whether a version is in the store as it was written; damage is reported."""
    try:
        _verify(bundle, funnel, store, version)
    except DamagedError as error:
        report(str(error))
        return False
    return True


def _damaged_changes(store: Store, version: str, funnel: Funnel) -> list[bytes]:
    """The keys of damaged records among a version's changed items."""
    form = RecordFormat.from_manifest(funnel.manifest)
    pairs = (pair for batch in store.scan(f"changed/{version}") for pair in batch)
    return [key for key, record in pairs if not form.is_intact(key, record)]

"""Publish a bundle: write it into a store completely, then make it live, or leave it staged.

All is written under the new version's name and verified, items that were upserted since the bundle's items were read
are applied, and the head is swapped. Killed at any point, the store has the old live version or the new one; publishing
the same bundle again continues where it stopped. One process at a time writes a version: it holds a claim (claims.py).
"""

import hashlib
from collections.abc import Callable

import msgspec
import numpy as np

from corank.bundle.bundle import Bundle
from corank.bundle.checks.content_name import is_content_name
from corank.bundle.manifest import BundleManifest, digest, signed_content
from corank.bundle.signatures import Signature, SigningKeys
from corank.core.errors import BundleError, StoreError
from corank.core.settings import validate
from corank.core.storage.object_url import Location
from corank.core.time import now_ms
from corank.core.types import Progress, Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store, await_replicas
from corank.serving.store.changes.merged_items import MergedItems
from corank.serving.store.claims import claim_version
from corank.serving.store.go_live import make_live
from corank.serving.store.live_version import StoreState, VersionFacts
from corank.serving.store.record_codec import RecordFormat, to_ids
from corank.serving.store.version_parts import (
    DamagedError,
    encode_manifest,
    progress_entry,
    read_progress,
    read_stored_digest,
    verify_parts,
    write_parts,
)

BLOCK = 16_384
"""Records written at once."""


def publish_bundle(
    location: Location,
    store: Store,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
    sign: SigningKeys | None = None,
    merged: Callable[[MergedItems], object] = lambda merged: None,
    stage: bool = False,
) -> str:
    """Make a bundle the live version of a store. A version that is there is verified, and repaired if it is damaged.

    Args:
        location: folder of the bundle, or its URL.
        store: the store.
        report: receives progress messages.
        progress: receives how many records are written.
        sign: keys that sign the version, and that it is live.
        merged: receives what became of the items that were upserted before.
        stage: whether to leave what is live as it is; the version can be a canary then, or be promoted.

    Returns:
        The name of the version.

    Raises BundleError, StoreError.

    Example:
        with closing(open_store("lmdb:store", create=True)) as store:
            publish_bundle(Path("bundle"), store)
    """
    bundle = Bundle.open(location)
    version, funnel = bundle.manifest.content, Funnel(bundle)
    if not is_content_name(version):
        raise BundleError(f"{location}: {version[:80]!r} is no name of a content; export the bundle again")
    with claim_version(store, version, "publish", report) as claim:
        _, state = StoreState.read(store)
        facts, damaged = state.versions.get(version), _find_damage(store, version, funnel, state)
        if facts is None or not _is_intact(bundle, funnel, store, version, report):
            _refuse_another(bundle, store, version, facts)
            if facts is None:
                store.drop(f"changed/{version}")  # what a version of this name had before it was removed
            _write(bundle, funnel, store, version, report, progress)
            facts = _make_facts(funnel, facts)
        elif damaged is None and _is_entered(state, version, sign, stage):
            report(f"{version} is {'live' if state.live == version else 'staged'} already")
            return version
        signatures = _sign_manifest(bundle.manifest, facts, sign, report)
        facts = facts.model_copy(update={"signatures": signatures})
        what = "stage" if stage else "publish"
        merged(make_live(store, version, funnel, facts, claim, what, report, damaged, sign, stage))
    return version


def _is_entered(state: StoreState, version: str, sign: SigningKeys | None, stage: bool) -> bool:
    """Whether a version is live, or staged, already, and signed by all keys."""
    if stage:
        return sign is None and not state.versions[version].withdrawn
    return state.live == version and _is_signed(state, sign)


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
    signatures = {one.key: one for one in facts.signatures}
    if digest(manifest.plain()) == manifest.digest:
        signatures |= {one.key: one for one in manifest.signatures}
    elif manifest.signatures:
        report(
            "the bundle was signed by an earlier release: its signatures are not published; give --sign KEY"
        )
    return sign.add(content, list(signatures.values())) if sign is not None else list(signatures.values())


def _make_facts(funnel: Funnel, before: VersionFacts | None) -> VersionFacts:
    """The facts of a new version, or of one that was repaired."""
    manifest = funnel.manifest
    # signatures are of the manifest, which may have been written anew
    new = {"seq": 0, "applied": 0, "base": 0, "changed": 0}
    earlier = before.model_dump(exclude={"signatures"}) if before else new
    now = {
        "name": manifest.name,
        "model_version": manifest.model_version,
        "items": len(funnel.request_encoder.items.layers[0].records.ids),
        "published_at": now_ms(),
        "manifest": hashlib.sha256(encode_manifest(manifest)).hexdigest(),
        "record": RecordFormat.from_manifest(funnel.manifest).fields,
    }
    return validate(VersionFacts, earlier | now, manifest.content)


def _refuse_another(bundle: Bundle, store: Store, version: str, facts: VersionFacts | None) -> None:
    """Raise StoreError if a store has another bundle of the same name, whose content would become a mix of both."""
    stored_digest = read_stored_digest(store, version, facts)
    if stored_digest is not None and stored_digest != bundle.manifest.digest:
        raise StoreError(
            f"{store.address}: has another bundle of the name {version}; export or refresh yours again, which names it "
            "anew"
        )


def _write(
    bundle: Bundle, funnel: Funnel, store: Store, version: str, report: Report, progress: Progress
) -> None:
    """Write a version and verify it; what an earlier try wrote is written again if it is not whole.

    Raises DamagedError, StoreError.
    """
    resumed = read_progress(store, version)[0] > 0
    write_parts(bundle, store, version)
    _write_items(funnel, store, version, report, progress)
    await_replicas(store)  # what is verified below is not lost when a server fails
    try:
        _verify(bundle, funnel, store, version)
    except DamagedError as error:
        if not resumed:
            raise
        report(f"{error}: it is written from the start")
        store.put(progress_entry(version, 0))
        _write(bundle, funnel, store, version, report, progress)


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


def _find_damage(store: Store, version: str, funnel: Funnel, state: StoreState) -> list[bytes] | None:
    """The keys of damaged records among a version's changed items; None if none is damaged or missing."""
    form, count, damaged = RecordFormat.from_manifest(funnel.manifest), 0, list[bytes]()
    for pairs in store.scan(f"changed/{version}"):
        count += len(pairs)
        damaged += [key for key, record in pairs if not form.is_intact(key, record)]
    facts = state.versions.get(version)
    missing = facts is not None and count < facts.changed
    return damaged if damaged or missing else None

"""Publish a bundle: write it into a store completely, then make it live, or leave it staged.

All is written under the new version's name and verified, items that were upserted since the bundle's items were read
are applied, and the head is swapped. Killed at any point, the store has the old live version or the new one, and the
same publish again writes all anew. One process at a time writes a version: it holds a claim (claims.py).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from corank.bundle.bundle import Bundle
from corank.bundle.manifest import BundleManifest, signed_content
from corank.bundle.signatures import Signature, SigningKeys, is_content_name
from corank.core.artifact import digest
from corank.core.errors import BundleError, StoreError
from corank.core.objects import Location
from corank.core.reports import Progress, Report
from corank.core.settings import validate
from corank.core.time import now_ms
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Pairs, Store
from corank_serve.store.claims import check_claim, claim_version, store_time
from corank_serve.store.journal import (
    Change,
    local_operator,
    read_journal,
    record_change,
    record_unchanged,
)
from corank_serve.store.live_version import StoreState, VersionFacts
from corank_serve.store.record_codec import RecordFormat, to_ids
from corank_serve.store.upsert import (
    MergedItems,
    changed_records,
    count_new,
    find_base,
    list_merged,
)
from corank_serve.store.version_parts import (
    DamagedError,
    encode_manifest,
    read_stored_digest,
    verify_parts,
    write_parts,
)


def make_live(
    store: Store,
    version: str,
    funnel: Funnel,
    facts: VersionFacts,
    claim: str,
    what: str,
    report: Report,
    damaged: Sequence[bytes] | None = None,
    sign: SigningKeys | None = None,
) -> MergedItems:
    """Swap the head to a complete version, with all changes of items applied.

    Args:
        store: the store.
        version: its name.
        funnel: of the version's bundle; it encodes items that came under another version.
        facts: of the version.
        claim: token of the claim of the version, which ends.
        what: is done, for the log: `publish`, `promote` or `roll back`; `stage` leaves what is live.
        report: receives what became of items that were upserted before.
        damaged: keys of damaged records among the version's changed items: they are removed, and all changed items
            come from the journal again; None if none is damaged or missing.
        sign: keys that sign what is live.

    Returns what became of the items that were upserted before. Raises StoreError.
    """
    _, state = StoreState.read(store)
    if new := version not in state.versions:
        base = find_base(store, state, funnel.manifest.items_as_of, report)
        facts = facts.model_copy(update={"base": base})
    first = applied = facts.applied if not new and damaged is None else facts.base
    records, table = dict[bytes, bytes](), f"changed/{version}"
    while True:
        raw, state = StoreState.read(store)
        check_claim(store, state, version, claim)
        if not new and version not in state.versions:
            raise StoreError(f"{store.address}: {version} was removed meanwhile; publish it again")
        for _, change in read_journal(store, max(applied, state.journal_from - 1), state.seq):
            records |= changed_records(funnel, version, change, report)
        applied = state.seq
        changed = store.count(table) + count_new(store, table, records, damaged or ())
        # what the journal has no more is not on top of a new version, whatever its table contains
        base = max(facts.base, state.journal_from - 1) if new else facts.base
        entered = facts.model_copy(update={"changed": changed, "base": base})
        after, logged = _enter(store, state, version, entered, what, sign)
        if store.swap(raw, after.to_bytes(), {table: [*records.items()], **logged}, {table: damaged or ()}):
            break
    merged = list_merged(store, state, version, funnel, facts, records, new)
    for line in (*_name_lost(first, state, version), *merged.lines()):
        report(line)
    return merged


def _name_lost(applied: int, state: StoreState, version: str) -> Iterator[str]:
    """Say which changes after those that a version has are in the journal no more."""
    if applied < state.journal_from - 1:
        yield (
            f"items that came by the changes {applied + 1:,} to {state.journal_from - 1:,} are in the journal no more: "
            f"those that {version} lacks must be put in again"
        )


def _enter(
    store: Store, state: StoreState, version: str, facts: VersionFacts, what: str, sign: SigningKeys | None
) -> tuple[StoreState, dict[str, Pairs]]:
    """The head with a version that is complete, and live unless it is staged; and the entries that log it."""
    after = state.without_claim(version)
    if what == "stage":
        logged = record_unchanged(store, state, what, beside=version)
        return after.with_complete(version, facts), logged
    change = Change(version=version, at=store_time(store), before=state.id)
    after = after.with_live(version, facts).with_change(change.id)
    if what == "roll back":
        after = after.with_withdrawn(*state.find_undone(version))
    if sign is not None:
        after = after.with_statement(sign, state.statement)
    return after, record_change(after.seq, change, what, local_operator())


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
        stage: whether to leave what is live as it is; a service can be pinned to the version then, or it be promoted.

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
            _write(bundle, funnel, store, version, progress)
            facts = _make_facts(funnel, facts)
        elif damaged is None and _is_entered(state, version, sign, stage):
            report(f"{version} is {'live' if state.live == version else 'staged'} already")
            return version
        signatures = _sign_manifest(bundle.manifest, facts, sign, report)
        facts = facts.model_copy(update={"signatures": signatures})
        what = "stage" if stage else "publish"
        merged(make_live(store, version, funnel, facts, claim, what, report, damaged, sign))
    return version


def _is_entered(state: StoreState, version: str, sign: SigningKeys | None, stage: bool) -> bool:
    """Whether a version is live, or staged, already, and signed by all keys."""
    if stage:
        return sign is None and not state.versions[version].withdrawn
    if state.live != version or sign is None:
        return state.live == version
    statement = state.statement
    return statement is not None and sign.have_signed(statement.content, statement.signatures)


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


def _write(bundle: Bundle, funnel: Funnel, store: Store, version: str, progress: Progress) -> None:
    """Write a version, the records in the order of their keys, and verify it. Raises DamagedError, StoreError."""
    write_parts(bundle, store, version)
    (layer,) = funnel.request_encoder.items.layers
    form, total = RecordFormat.from_manifest(funnel.manifest), len(layer.records.ids)
    for start in range(0, total, BLOCK):
        index = np.arange(start, min(start + BLOCK, total))
        store.put({f"items/{version}": form.encode(layer, index)})
        progress(int(index[-1]) + 1, total)
    getattr(store, "await_replicas", lambda: None)()  # what is verified below is not lost when a server fails
    _verify(bundle, funnel, store, version)


def _verify(bundle: Bundle, funnel: Funnel, store: Store, version: str) -> None:
    """Check that every record and part arrived as it is in the bundle. Raises DamagedError, StoreError."""
    form, (layer,) = RecordFormat.from_manifest(funnel.manifest), funnel.request_encoder.items.layers
    intact = np.zeros(len(layer.records.ids), dtype=bool)
    for pairs in store.scan(f"items/{version}"):
        keys = [key for key, record in pairs if form.is_intact(key, record)]
        positions = layer.records.ids.find(to_ids(keys)) if keys else np.empty(0, dtype=np.int64)
        intact[positions[positions >= 0]] = True
    if not intact.all():
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
        intact = (key for key, record in pairs if form.is_intact(key, record) or form.is_removal(key, record))
        damaged += {key for key, _ in pairs} - {*intact}
    facts = state.versions.get(version)
    missing = facts is not None and count < facts.changed
    return damaged if damaged or missing else None

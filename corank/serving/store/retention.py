"""The versions of a store: list them, roll back to an older one, prune those that are not needed."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from corank.bundle.manifest import signed_content
from corank.bundle.signatures import SigningKeys
from corank.core.errors import StoreError
from corank.core.time import now_ms
from corank.core.types import Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store
from corank.serving.store.fetch import fetch_bundle
from corank.serving.store.go_live import make_live
from corank.serving.store.live_version import JOURNAL, StoreState, VersionFacts, journal_key, read_journal
from corank.serving.store.version_parts import PROGRESS, read_plain_manifest, read_progress

ABANDONED = 3_600_000
"""ms after which a version whose writing has stopped may be removed."""


@dataclass(frozen=True)
class StoredVersion:
    """A version in a store, complete or not."""

    version: str
    live: bool
    facts: VersionFacts | None
    """None if it was never written completely."""
    records: int
    """Number of records of the bundle's items."""
    changed: int
    """Number of records of items that were added or changed since."""


def list_versions(store: Store) -> list[StoredVersion]:
    """List all versions in the order of publishing, incomplete ones last. Raises StoreError."""
    _, state = StoreState.read(store)
    names = list(state.versions) + [name for name in _find_names(store) if name not in state.versions]
    return [
        StoredVersion(
            name,
            name == state.live,
            state.versions.get(name),
            store.count(f"items/{name}"),
            store.count(f"changed/{name}"),
        )
        for name in names
    ]


def _find_names(store: Store) -> list[str]:
    """The versions that the store has any table of."""
    found = (table.partition("/") for table in store.tables())
    return sorted({name for kind, _, name in found if kind in ("parts", "items", "changed")})


def roll_back_store(
    store: Store,
    version: str | None = None,
    report: Report = lambda line: None,
    sign: SigningKeys | None = None,
) -> str:
    """Make an older version live again, with all items that were upserted since.

    Args:
        store: the store.
        version: its name; the version that was live before if None.
        report: receives what is applied.
        sign: keys that sign that the version is live; one of them must have signed the version.

    Returns:
        The name of the version.

    Raises StoreError, TrustError.
    """
    _, state = StoreState.read(store)
    others = sorted((v.seq, name) for name, v in state.versions.items() if name != state.live)
    if version is None:
        if not others:
            raise StoreError(f"{store.address}: there is no older version to go back to")
        version = others[-1][1]
    facts = state.require_version(store, version)
    if version == state.live:
        raise StoreError(f"{store.address}: {version} is live already")
    with tempfile.TemporaryDirectory(prefix="corank-") as folder:
        trust = sign.public() if sign is not None else None
        bundle = fetch_bundle(store, version, Path(folder), trust=trust)
        if sign is not None:
            content = signed_content(read_plain_manifest(store, version, trust))
            signatures = sign.add(content, facts.signatures)
            facts = facts.model_copy(update={"signatures": signatures})
        make_live(store, version, Funnel(bundle), facts, report, sign=sign)
    return version


def remove_versions(store: Store, keep: int = 1, report: Report = lambda line: None) -> list[str]:
    """Remove all versions but the live one and the `keep` that were live last before it.

    Incomplete versions are removed once nobody has worked on them for an hour, and journal entries once every version
    contains them.

    Returns:
        The names of the removed versions.

    Raises StoreError.
    """
    while True:
        raw, state = StoreState.read(store)
        state.require_live(store)
        order = sorted(state.versions, key=lambda name: -state.versions[name].seq)
        stay = [name for name in order if name == state.live] + [n for n in order if n != state.live][:keep]
        after = _trim(store, state, {name: v for name, v in state.versions.items() if name in stay})
        keys = [journal_key(seq) for seq in range(state.journal_from, after.journal_from)]
        # without the note of its progress, a removed version that is published again starts from its first record
        notes = {f"parts/{name}": [PROGRESS] for name in order if name not in stay}
        if after == state or store.swap(raw, after.to_bytes(), gone={JOURNAL: keys} | notes):
            break
    removed = []
    for name in _find_names(store):
        if _is_abandoned(store, name):
            for kind in ("items", "changed", "parts"):  # the parts last, since they tell when it was written
                store.drop(f"{kind}/{name}")
            report(f"removed {name}")
            removed.append(name)
    return removed


def _is_abandoned(store: Store, name: str) -> bool:
    _, state = StoreState.read(store)
    return name not in state.versions and now_ms() - read_progress(store, name)[1] > ABANDONED


def _trim(store: Store, state: StoreState, versions: dict[str, VersionFacts]) -> StoreState:
    """The state with some versions only, and the journal from the first change that these or later ones may need."""
    applied = min(
        [facts.applied for name, facts in versions.items() if name != state.live], default=state.seq
    )
    since = max(facts.items_at for facts in versions.values())
    last, at = state.journal_from - 1, state.journal_at
    for seq, change in read_journal(store, last, applied):
        if change.items:
            if change.at >= since:
                break
            at = max(at, change.at)
        last = seq
    return state.model_copy(update={"versions": versions, "journal_from": last + 1, "journal_at": at})

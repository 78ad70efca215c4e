"""The versions of a store: what there is, back to an older one, and away with what nobody needs."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from corank.core.errors import StoreError
from corank.core.time import now_ms
from corank.core.types import Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store
from corank.serving.store.fetch import fetch_bundle
from corank.serving.store.live_version import JOURNAL, StoreState, Version, journal, journal_key
from corank.serving.store.publish import WRITTEN, make_live, written

ABANDONED = 3_600_000
"""ms: a version whose writing stopped so long ago may go."""


@dataclass(frozen=True)
class StoredVersion:
    """A version in a store."""

    version: str
    live: bool
    facts: Version | None
    """None where it was never written to the end."""
    records: int
    """Of the bundle's items."""
    changed: int
    """Of those that came, or changed, since."""


def held(store: Store) -> list[StoredVersion]:
    """Every version, in the order of publishing, unfinished ones last. Raises StoreError."""
    _, head = StoreState.read(store)
    names = list(head.versions) + [name for name in _written(store) if name not in head.versions]
    return [
        StoredVersion(
            name,
            name == head.live,
            head.versions.get(name),
            store.count(f"items/{name}"),
            store.count(f"changed/{name}"),
        )
        for name in names
    ]


def _written(store: Store) -> list[str]:
    """The versions that something is written of."""
    found = (table.partition("/") for table in store.tables())
    return sorted({name for kind, _, name in found if kind in ("parts", "items", "changed")})


def roll_back(store: Store, version: str | None = None, report: Report = lambda line: None) -> str:
    """Make an older version live again, the one before unless named, with all that was upserted since; its name.

    Raises StoreError.
    """
    _, head = StoreState.read(store)
    others = sorted((v.seq, name) for name, v in head.versions.items() if name != head.live)
    if version is None:
        if not others:
            raise StoreError(f"{store.address}: there is no older version to go back to")
        version = others[-1][1]
    facts = head.facts(store, version)
    if version == head.live:
        raise StoreError(f"{store.address}: {version} is live already")
    with tempfile.TemporaryDirectory(prefix="corank-") as folder:
        make_live(store, version, Funnel(fetch_bundle(store, version, Path(folder))), facts, report)
    return version


def prune(store: Store, keep: int = 1, report: Report = lambda line: None) -> list[str]:
    """Remove all but the live version and the `keep` that were live last before it; their names.

    What was left half written goes too, once nobody has worked on it for an hour, and the journal of what every version
    left has in it. Raises StoreError.
    """
    while True:
        raw, head = StoreState.read(store)
        head.require_live(store)
        order = sorted(head.versions, key=lambda name: -head.versions[name].seq)
        stay = [name for name in order if name == head.live] + [n for n in order if n != head.live][:keep]
        after = _trimmed(store, head, {name: v for name, v in head.versions.items() if name in stay})
        keys = [journal_key(seq) for seq in range(head.journal_from, after.journal_from)]
        # who publishes one that goes begins anew
        notes = {f"parts/{name}": [WRITTEN] for name in order if name not in stay}
        if after == head or store.swap(raw, after.written(), gone={JOURNAL: keys} | notes):
            break
    gone = []
    for name in _written(store):
        if _abandoned(store, name):
            for kind in ("items", "changed", "parts"):  # the parts last: they tell when it was written
                store.drop(f"{kind}/{name}")
            report(f"removed {name}")
            gone.append(name)
    return gone


def _abandoned(store: Store, name: str) -> bool:
    _, head = StoreState.read(store)
    return name not in head.versions and now_ms() - written(store, name)[1] > ABANDONED


def _trimmed(store: Store, head: StoreState, versions: dict[str, Version]) -> StoreState:
    """With those versions only, and the journal from the first change that one of them, or one to come, may need."""
    applied = min([facts.applied for name, facts in versions.items() if name != head.live], default=head.seq)
    since = max(facts.items_at for facts in versions.values())
    last, at = head.journal_from - 1, head.journal_at
    for seq, change in journal(store, last, applied):
        if change.items:
            if change.at >= since:
                break
            at = max(at, change.at)
        last = seq
    return head.model_copy(update={"versions": versions, "journal_from": last + 1, "journal_at": at})

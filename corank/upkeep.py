"""The versions of a store: what there is, back to an older one, and away with what nobody needs."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corank.errors import StoreError
from corank.fetch import fetched
from corank.funnel import Funnel
from corank.head import JOURNAL, Head, Version, journal, journal_key, now
from corank.publish import make_live, written
from corank.stores import Store

ABANDONED = 3_600_000
"""ms: a version whose writing stopped so long ago may go."""

Report = Callable[[str], object]


@dataclass(frozen=True)
class Held:
    """A version in a store."""

    version: str
    live: bool
    facts: Version | None
    """None where it was never written to the end."""
    records: int
    changed: int
    """Of them, those that came since the bundle."""


def held(store: Store) -> list[Held]:
    """Every version, in the order of publishing, unfinished ones last. Raises StoreError."""
    _, head = Head.read(store)
    names = list(head.versions) + [name for name in _written(store) if name not in head.versions]
    return [
        Held(
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
    _, head = Head.read(store)
    others = sorted((v.seq, name) for name, v in head.versions.items() if name != head.live)
    if version is None:
        if not others:
            raise StoreError(f"{store.address}: there is no older version to go back to")
        version = others[-1][1]
    if version not in head.versions:
        known = ", ".join(head.versions) or "none"
        raise StoreError(f"{store.address}: no version {version}; there are {known}")
    if version == head.live:
        raise StoreError(f"{store.address}: {version} is live already")
    with tempfile.TemporaryDirectory(prefix="corank-") as folder:
        funnel = Funnel(fetched(store, version, Path(folder)))
        make_live(store, version, funnel, head.versions[version], report)
    return version


def prune(store: Store, keep: int = 1, report: Report = lambda line: None) -> list[str]:
    """Remove all but the live version and the `keep` that were live last before it; their names.

    What was left half written goes too, once nobody has worked on it for an hour, and the journal of what every version
    left has in it. Raises StoreError.
    """
    while True:
        raw, head = Head.read(store)
        head.require_live(store)
        order = sorted(head.versions, key=lambda name: -head.versions[name].seq)
        stay = [name for name in order if name == head.live] + [n for n in order if n != head.live][:keep]
        versions = {name: facts for name, facts in head.versions.items() if name in stay}
        first = _journal_from(store, head, versions)
        keys = [journal_key(seq) for seq in range(head.journal_from, first)]
        after = head.model_copy(update={"versions": versions, "journal_from": first})
        if after == head or store.swap(raw, after.written(), gone={JOURNAL: keys}):
            break
    gone = [name for name in _written(store) if name not in versions and _abandoned(store, name, head)]
    for name in gone:
        for kind in ("items", "changed", "parts"):  # the parts last: they tell when it was written
            store.drop(f"{kind}/{name}")
        report(f"removed {name}")
    return gone


def _abandoned(store: Store, name: str, head: Head) -> bool:
    return name in head.versions or now() - written(store, name)[1] > ABANDONED


def _journal_from(store: Store, head: Head, versions: dict[str, Version]) -> int:
    """The first change that some version, kept or yet to come, may need again."""
    applied = min([facts.applied for name, facts in versions.items() if name != head.live], default=head.seq)
    since = max(facts.items_at for facts in versions.values())
    for seq, upsert in journal(store, head.journal_from - 1, applied):
        if upsert.at >= since:
            return seq
    return max(head.journal_from, applied + 1)

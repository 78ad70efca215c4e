"""What a store holds, and which version of it is live.

    head                StoreState: the live version, and all others that are whole
    parts/VERSION       `manifest.json`, and `NAME/CHUNK`: the bundle's parts, but for the records of its items
    items/VERSION       an item's key → its record (codec.py), as in the bundle
    changed/VERSION     likewise of items that came, or changed, since: these are the newer ones
    journal             sequence number → Change: what came, as it was given, and as records of the live version
    users               a user's key → the user's columns, of no version

VERSION is the name of the bundle's content. A version is written whole before the head names it; a reader that follows
the head never meets half of one. Every change of what is served, a version or some items, counts the sequence up.
"""

from typing import Any, Self

import msgspec
from pydantic import ValidationError

from corank.core.errors import StoreError
from corank.core.settings import Settings
from corank.serving.store.base import Store

JOURNAL = "journal"
USERS = "users"


class Version(Settings):
    """A version that is whole."""

    name: str
    """Of the bundle."""
    model_version: str
    items: int
    """In the bundle."""
    items_at: int
    """When they were read, ms UTC: upserts from then on belong on top."""
    published_at: int
    """ms UTC"""
    seq: int
    """The number of the change that made it live last."""
    applied: int
    """The number up to which upserts are in it; while it is live, all are."""
    manifest: str
    """SHA-256 of its manifest, which has those of its parts."""
    record: dict[str, tuple[int, str, int]]
    """Of a record's fixed part by field: offset, type and count."""


class StoreState(Settings):
    seq: int = 0
    """Of the last change."""
    live: str | None = None
    journal_from: int = 1
    """The journal has every change from this one on."""
    journal_at: int = 0
    """Items that came until then, ms UTC, may be gone from it."""
    versions: dict[str, Version] = {}
    """By name, in the order in which they were first published."""

    @classmethod
    def read(cls, store: Store) -> tuple[bytes | None, Self]:
        """As it is in the store, and as it reads. Raises StoreError."""
        raw = store.head()
        try:
            return raw, cls() if raw is None else cls.model_validate_json(raw)
        except ValidationError:
            raise StoreError(f"{store.address}: its head is not corank's, or of another release") from None

    def written(self) -> bytes:
        return self.model_dump_json().encode()

    def require_live(self, store: Store) -> str:
        """Raises StoreError where nothing was ever published."""
        if self.live is None:
            raise StoreError(f"{store.address}: nothing is live; `corank publish` makes a bundle live")
        return self.live

    def facts(self, store: Store, version: str) -> Version:
        """Raises StoreError for a version that is not there."""
        if version not in self.versions:
            known = ", ".join(self.versions) or "none"
            raise StoreError(f"{store.address}: no version {version}; there are {known}")
        return self.versions[version]

    def until(self, version: str) -> int:
        """The number up to which upserts are in a version."""
        return self.seq if version == self.live else self.versions[version].applied

    def tells(self, facts: Version) -> bool:
        """Whether the journal has all that came since a version's items were read."""
        return self.journal_at < facts.items_at

    def switched(self, version: str, facts: Version) -> Self:
        """With another version live. The one that was stays, with all that was upserted so far."""
        seq = self.seq + 1
        versions = dict(self.versions)
        if self.live in versions:
            versions[self.live] = versions[self.live].model_copy(update={"applied": self.seq})
        versions[version] = facts.model_copy(update={"seq": seq, "applied": self.seq})
        return self.model_copy(update={"seq": seq, "live": version, "versions": versions})


class Change(msgspec.Struct, frozen=True):
    """Items that came at once, or another version that went live."""

    version: str
    """Live from then on."""
    at: int
    """ms UTC"""
    items: list[dict[str, Any]] = []
    """Columns and `id`, as given."""
    records: list[tuple[bytes, bytes]] = []
    """Key and record, under that version."""


def journal_key(seq: int) -> bytes:
    return seq.to_bytes(8, "big")


def entry(seq: int, change: Change) -> dict[str, list[tuple[bytes, bytes]]]:
    """What a store is given to keep a change."""
    return {JOURNAL: [(journal_key(seq), msgspec.msgpack.encode(change))]}


def journal(store: Store, after: int, until: int, at_once: int = 256) -> list[tuple[int, Change]]:
    """The changes after one number up to another, those that the store still has. Raises StoreError."""
    found = []
    for first in range(after + 1, until + 1, at_once):
        numbers = range(first, min(first + at_once, until + 1))
        for seq, raw in zip(numbers, store.get(JOURNAL, [journal_key(seq) for seq in numbers]), strict=True):
            if raw is not None:
                try:
                    found.append((seq, msgspec.msgpack.decode(raw, type=Change)))
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    raise StoreError(f"{store.address}: journal entry {seq} is damaged") from None
    return found

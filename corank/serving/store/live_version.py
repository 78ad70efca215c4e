"""What a store holds, and which version of it is live.

    head                StoreState: the live version, and all others that are complete
    parts/VERSION       `manifest.json`, and `NAME/CHUNK`: the bundle's parts, except the records of its items
    items/VERSION       an item's key → its record (record_codec.py), as in the bundle
    changed/VERSION     the same for items added or changed since: these replace the bundle's
    journal             sequence number → Change: items as given, and as records of the live version
    users               a user's key → the user's columns, for all versions

VERSION is the name of the bundle's content. A version is written completely before the head names it, so that a reader
who follows the head never sees a part of one. Each change of what is served, a version or items, has the next sequence
number.
"""

from typing import Any, Self

import msgspec
from pydantic import ValidationError

from corank.bundle.signatures import Signatures, SigningKeys
from corank.core.errors import StoreError
from corank.core.settings import Settings
from corank.serving.store.base import Store
from corank.serving.store.live_statement import LiveStatement

JOURNAL = "journal"
USERS = "users"
JOURNAL_BATCH = 256
"""Changes read at once."""


class VersionFacts(Settings):
    """A complete version."""

    name: str
    """Of the bundle."""
    model_version: str
    items: int
    """Number of items in the bundle."""
    items_at: int
    """When the bundle's items were read, ms UTC: later upserts replace them."""
    published_at: int
    """ms UTC"""
    seq: int
    """Number of the change that made it live last."""
    applied: int
    """Number of the last change that it contains; the live version contains all."""
    manifest: str
    """SHA-256 of its manifest, which has the digests of its parts."""
    record: dict[str, tuple[int, str, int]]
    """Fixed part of its records, by field: offset, type and count."""
    signatures: Signatures = []
    """Of the manifest."""


class StoreState(Settings):
    """The head of a store."""

    seq: int = 0
    """Number of the last change."""
    live: str | None = None
    """Name of the live version; None before the first is published."""
    journal_from: int = 1
    """Number of the first change that the journal still has."""
    journal_at: int = 0
    """Changes up to this time, ms UTC, may be gone from the journal."""
    versions: dict[str, VersionFacts] = {}
    """Complete versions by name, in the order in which they were first published."""
    statement: LiveStatement | None = None
    """What is live, signed; None if it was not published with --sign."""

    @classmethod
    def read(cls, store: Store) -> tuple[bytes | None, Self]:
        """Read the head: its bytes, which a swap expects, and its state. Raises StoreError."""
        raw = store.head()
        try:
            return raw, cls() if raw is None else cls.model_validate_json(raw)
        except ValidationError:
            raise StoreError(f"{store.address}: its head is not corank's, or of another release") from None

    def to_bytes(self) -> bytes:
        """The bytes of the head."""
        return self.model_dump_json().encode()

    def require_live(self, store: Store) -> str:
        """Return the live version. Raises StoreError if nothing was ever published."""
        if self.live is None:
            raise StoreError(f"{store.address}: nothing is live; `corank publish` makes a bundle live")
        return self.live

    def require_version(self, store: Store, version: str) -> VersionFacts:
        """Return the facts of a version. Raises StoreError if it is not complete."""
        if version not in self.versions:
            known = ", ".join(self.versions) or "none"
            raise StoreError(f"{store.address}: no version {version}; there are {known}")
        return self.versions[version]

    def with_statement(self, keys: SigningKeys, before: LiveStatement | None) -> Self:
        """Return the state with what is live signed, by a statement that follows the one before."""
        assert self.live is not None
        facts = self.versions[self.live]
        statement = LiveStatement.sign(keys, self.live, facts.manifest, facts.seq, before)
        return self.model_copy(update={"statement": statement})

    def applied_until(self, version: str) -> int:
        """Return the number of the last change that a version contains."""
        return self.seq if version == self.live else self.versions[version].applied

    def journal_covers(self, facts: VersionFacts) -> bool:
        """Whether the journal has all changes since a version's items were read."""
        return self.journal_at < facts.items_at

    def with_live(self, version: str, facts: VersionFacts) -> Self:
        """Return the state with another version live, unsigned; the former one stays, with all changes so far."""
        seq = self.seq + 1
        versions = dict(self.versions)
        if self.live in versions:
            versions[self.live] = versions[self.live].model_copy(update={"applied": self.seq})
        versions[version] = facts.model_copy(update={"seq": seq, "applied": self.seq})
        return self.model_copy(update={"seq": seq, "live": version, "versions": versions, "statement": None})


class Change(msgspec.Struct, frozen=True):
    """An entry of the journal: items that were upserted together, or another version that went live."""

    version: str
    """The live version from then on."""
    at: int
    """ms UTC"""
    items: list[dict[str, Any]] = []
    """Columns and `id`, as given."""
    records: list[tuple[bytes, bytes]] = []
    """Key and record, in the format of that version."""


def journal_key(seq: int) -> bytes:
    """Return the key of a change in the journal."""
    return seq.to_bytes(8, "big")


def journal_entry(seq: int, change: Change) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return the entries of a store that record a change."""
    return {JOURNAL: [(journal_key(seq), msgspec.msgpack.encode(change))]}


def read_journal(store: Store, after: int, until: int) -> list[tuple[int, Change]]:
    """Read the changes after one number up to another that the store still has. Raises StoreError."""
    found = []
    for first in range(after + 1, until + 1, JOURNAL_BATCH):
        numbers = range(first, min(first + JOURNAL_BATCH, until + 1))
        for seq, raw in zip(numbers, store.get(JOURNAL, [journal_key(seq) for seq in numbers]), strict=True):
            if raw is not None:
                try:
                    found.append((seq, msgspec.msgpack.decode(raw, type=Change)))
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    raise StoreError(f"{store.address}: journal entry {seq} is damaged") from None
    return found

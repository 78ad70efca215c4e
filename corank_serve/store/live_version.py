"""The content of a store, and which version of it is live.

    head                StoreState: the live version, and all others that are complete
    parts/VERSION       `manifest.json`, and `NAME/CHUNK`: the bundle's parts, except the records of its items
    items/VERSION       an item's key → its record (record_codec.py), as in the bundle
    changed/VERSION     the same for items added or changed since: these replace the bundle's
    journal             sequence number → Change: items as given, and as records of the live version
    log                 sequence number → LoggedChange: who did what, kept longer than the journal
    users               a user's key → the user's columns, for all versions

VERSION is the name of the bundle's content. A version is written completely before the head names it, so that a reader
who follows the head never sees a part of one. Each change of what is served, a version or items, has the next sequence
number, and an id that is chained to that of the change before (journal.py).

Whoever can write to the store can write any head: all of it is checked for bounds, and against itself, when it is read.
That may be an older head with its signature, too. So what is live is signed with a time, each later than the one
before, and a service that has accepted a statement refuses those before it.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from corank.bundle.signatures import Signatures, SigningKeys, TrustedKeys, is_content_name
from corank.core.errors import CorankError, StoreError, TrustError
from corank.core.files import write_text
from corank.core.settings import Settings
from corank.core.time import EARLIEST, LATEST, format_time, now_ms
from corank_serve.store.base import Store


class LiveStatement(Settings):
    """That a version went live, signed."""

    version: str
    manifest: str
    """SHA-256 of the version's manifest in the store."""
    seq: int
    """Number of the change that made it live."""
    at: int
    """When, ms UTC by the publisher's clock; later than every statement before it."""
    signatures: Signatures = []

    @classmethod
    def sign(cls, keys: SigningKeys, version: str, manifest: str, seq: int, before: Self | None) -> Self:
        """Sign that a version goes live now, after the statement `before`."""
        at = now_ms()
        if before is not None:
            with suppress(TrustError):  # a statement that these keys have not signed may have any time
                keys.public().verify(before.content, before.signatures, "the head")
                at = max(at, before.at + 1)
        made = cls(version=version, manifest=manifest, seq=seq, at=at)
        return made.model_copy(update={"signatures": keys.sign(made.content)})

    @property
    def items_id(self) -> str:
        """Tells what is served apart from other versions of its number: the tag of the version's name."""
        return self.version.rpartition("-")[2]

    @property
    def content(self) -> bytes:
        """The signed bytes."""
        plain = self.model_dump(exclude={"signatures"})
        return b"corank live version\n" + json.dumps(plain, sort_keys=True).encode()


class TrustedLive:
    """Tells which version of a store a trusted key made live last."""

    def __init__(self, keys: TrustedKeys, address: str, cache: Path) -> None:
        """
        Args:
            keys: one of them must have signed what is live.
            address: of the store.
            cache: folder of fetched bundles; the newest statement that was served is kept there, for a service that
                starts anew.
        """
        self.keys, self._address = keys, address
        name = hashlib.sha256(address.encode()).hexdigest()[:16]
        self._file = cache / f".live-{name}.json"
        self._newest: LiveStatement | None = None

    def check(self, version: str, manifest: str, statement: LiveStatement | None) -> LiveStatement:
        """Check that a trusted key made a version live, and that it is not older than what was live here.

        Args:
            version: that is live by the head.
            manifest: SHA-256 of its manifest by the head.
            statement: that came with the head.

        Returns the statement, which `keep` notes once the version can be served. Raises TrustError.
        """
        what = f"{self._address}: the head, by which {version} is live,"
        signed = statement or LiveStatement(version=version, manifest=manifest, seq=0, at=0)
        self.keys.verify(signed.content, signed.signatures, what)
        if (signed.version, signed.manifest) != (version, manifest):
            raise TrustError(f"{what} was altered: {signed.version} was signed as live; publish it again")
        newest = max(filter(None, (self.read_kept(), self._newest, signed)), key=lambda one: one.at)
        if signed.at < newest.at:
            raise TrustError(
                f"{what} was signed at {format_time(signed.at)}; {newest.version} went live after it, at "
                f"{format_time(newest.at)}: an old head was put back; publish, or roll back to {version}, with --sign"
            )
        self._newest = signed
        return signed

    def keep(self, statement: LiveStatement) -> None:
        """Note a statement whose version is in the cache, whole: a service that starts anew may serve it."""
        kept = self.read_kept()
        if kept is None or kept.at < statement.at:
            write_text(self._file, statement.model_dump_json())

    def read_kept(self) -> LiveStatement | None:
        """The newest statement that a process with this cache has served; None if there is none, or it is damaged."""
        with suppress(OSError, ValueError, TrustError):
            kept = LiveStatement.model_validate_json(self._file.read_bytes())
            self.keys.verify(kept.content, kept.signatures, str(self._file))
            return kept
        return None


class OffsetsMovedError(CorankError):
    """Messages of a stream were applied by another process; read on from the store's offsets."""


OffsetMoves = Mapping[str, tuple[int | None, int]]
"""By partition of a stream: the offset that the store has, None for none, and the one after some more messages."""

USERS = "users"
MOST_PARTITIONS = 4096
"""Of all streams that a store follows."""
HEAD_BYTES = 1 << 22
"""Largest head."""
NEW_STORE = "publish into a new store"
"""What a user does about a head that cannot be read."""

Count = Annotated[int, Field(ge=0, le=2**53)]
Moment = Annotated[int, Field(ge=EARLIEST, le=LATEST)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
Line = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Text that a terminal shows as it is."""
FieldLayout = tuple[Count, Annotated[str, Field(pattern=r"^(<(f[248]|[iu][48])|[|]i1)$")], Count]
"""Offset, type and count."""


def _check_name(name: str) -> str:
    if not is_content_name(name):
        raise ValueError(f"{name[:80]!r} is no version's name")
    return name


Version = Annotated[str, AfterValidator(_check_name)]


class VersionFacts(Settings):
    """A complete version."""

    name: Line
    """Of the bundle."""
    model_version: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    items: Count
    """Number of items in the bundle."""
    published_at: Moment
    """ms UTC"""
    seq: Count
    """Number of the change that made it live last; 0 if it never was, and is staged."""
    applied: Count
    """Number of the last change that its table of changed items contains; the live version's contains all, unless it
    lags."""
    applied_id: Hex = ""
    """Id of that change."""
    base: Count
    """Number of the last change that its table of items contains: all later ones are on top of it."""
    changed: Count
    """Number of items that were added or changed since."""
    manifest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of its manifest, which has the digests of its parts."""
    record: Annotated[dict[Line, FieldLayout], Field(max_length=4096)]
    """Fixed part of its records, by field: offset, type and count."""
    signatures: Signatures = []
    """Of the manifest."""
    lags: bool = False
    """Whether the table of the live version lacks changes after `applied`: another version's services put them in."""
    withdrawn: bool = False
    """Whether services that are pinned to it serve what is live, and no roll-back goes to it by itself: it was
    withdrawn, or rolled back."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.applied < self.seq - 1:
            raise ValueError(f"applied: {self.applied}, though change {self.seq} made the version live")
        if self.base > self.applied:
            raise ValueError(f"base: {self.base} is later than applied, {self.applied}")
        return self


class Claim(Settings):
    """The right of one process to write or remove a version's tables."""

    holder: Line
    """For people: command, process and host."""
    token: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Tells this claim from all others."""
    since: Moment
    """ms UTC, by the holder's clock."""
    process: Line = ""
    """Identifies the process on its machine; empty where that is not possible."""
    beat: Count = 0
    """Counts up while the holder is alive."""

    def next_beat(self) -> Self:
        """Return the claim, one beat later."""
        return self.model_copy(update={"beat": self.beat + 1})


class StoreState(Settings):
    """The head of a store."""

    seq: Count = 0
    """Number of the last change."""
    id: Hex = ""
    """Id of the last change; empty before the first."""
    live: str | None = None
    """Name of the live version; None before the first is published."""
    journal_from: Count = 1
    """Number of the first change that the journal still has."""
    versions: dict[Version, VersionFacts] = {}
    """Complete versions by name, in the order in which they were first published."""
    statement: LiveStatement | None = None
    """What is live, signed; None if it was not published with --sign."""
    claims: Annotated[dict[Version, Claim], Field(max_length=4096)] = {}
    """Versions that are being written or removed (claims.py)."""
    offsets: Annotated[dict[Line, Count], Field(max_length=MOST_PARTITIONS)] = {}
    """By partition of a stream, `items/TOPIC/3`, the offset of the first message that is not applied."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Check the head against itself."""
        if not 1 <= self.journal_from <= self.seq + 1:
            raise ValueError(
                f"journal_from: {self.journal_from} is not from 1 to {self.seq + 1}, the next change"
            )
        for name, facts in self.versions.items():
            if facts.seq > self.seq:
                raise ValueError(
                    f"versions.{name}.seq: {facts.seq} is later than {self.seq}, the last change"
                )
            if facts.applied > self.seq:
                raise ValueError(
                    f"versions.{name}.applied: {facts.applied} is later than {self.seq}, the last change"
                )
        if self.live is not None and self.live not in self.versions:
            raise ValueError(f"live: {self.live[:80]!r} is not among the versions")
        if self.live is not None and not self.versions[self.live].seq:
            raise ValueError(f"versions.{self.live}.seq: 0, though the version is live")
        return self

    @classmethod
    def read(cls, store: Store) -> tuple[bytes | None, Self]:
        """Read the head: its bytes, which a swap expects, and its state.

        Raises StoreError, which says what is wrong with it.
        """
        raw = store.head()
        if raw is None:
            return None, cls()
        foreign = f"{store.address}: its head is not corank's, or of another release"
        if len(raw) > HEAD_BYTES:
            raise StoreError(
                f"{foreign}: it has {len(raw):,} bytes, and {HEAD_BYTES:,} at most are written; {NEW_STORE}"
            )
        try:
            return raw, cls.model_validate_json(raw)
        except ValidationError as error:
            raise StoreError(f"{foreign}{_describe(error)}; {NEW_STORE}") from None

    def to_bytes(self) -> bytes:
        """The bytes of the head. Raises StoreError if there are too many versions."""
        raw = self.model_dump_json(exclude_defaults=True).encode()
        if len(raw) > HEAD_BYTES:
            raise StoreError(
                f"{len(self.versions):,} versions are too many for one store; `corank store prune` removes old ones"
            )
        return raw

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

    def applied_until(self, version: str) -> tuple[int, str]:
        """Return number and id of the last change that a version's table of changed items contains."""
        facts = self.versions[version]
        if version == self.live and not facts.lags:
            return self.seq, self.id
        return facts.applied, facts.applied_id

    def journal_covers(self, facts: VersionFacts) -> bool:
        """Whether the journal has all changes that are on top of a version's table of items."""
        return self.journal_from - 1 <= facts.base

    def with_facts(self, version: str, facts: VersionFacts, **changes: object) -> Self:
        """Return the state with other facts of a version, and changes of them."""
        facts = facts.model_copy(update=changes)
        return self.model_copy(update={"versions": {**self.versions, version: facts}})

    def with_live(self, version: str, facts: VersionFacts) -> Self:
        """Return the state with another version live, unsigned; the former one stays, with all changes so far."""
        state, former = self, self.live
        if former is not None and former in self.versions:
            applied, id_ = self.applied_until(former)
            state = state.with_facts(
                former, self.versions[former], applied=applied, applied_id=id_, lags=False
            )
        state = state.with_complete(version, facts.model_copy(update={"seq": self.seq + 1}))
        return state.model_copy(update={"live": version, "statement": None})

    def with_complete(self, version: str, facts: VersionFacts) -> Self:
        """Return the state with a version that is complete, with all changes so far; what is live stays so."""
        return self.with_facts(
            version, facts, applied=self.seq, applied_id=self.id, lags=False, withdrawn=False
        )

    def with_lag(self, live: str) -> Self:
        """Return the state whose next change will not be in the table of the live version."""
        facts = self.versions[live]
        if facts.lags:
            return self
        return self.with_facts(live, facts, applied=self.seq, applied_id=self.id, lags=True)

    def with_withdrawn(self, *versions: str) -> Self:
        """Return the state with versions that are withdrawn, as `VersionFacts` has it."""
        facts = {name: self.versions[name].model_copy(update={"withdrawn": True}) for name in versions}
        return self.model_copy(update={"versions": {**self.versions, **facts}})

    def find_undone(self, version: str) -> list[str]:
        """The versions that a roll-back to a version undoes: the live one, and those that were live since."""
        seq = self.versions[version].seq
        since = {name for name, facts in self.versions.items() if seq and facts.seq > seq}
        return sorted((since | {self.live or version}) - {version})

    def with_claim(self, version: str, claim: Claim) -> Self:
        """Return the state with a claim of a version."""
        return self.model_copy(update={"claims": {**self.claims, version: claim}})

    def without_claim(self, version: str) -> Self:
        """Return the state without the claim of a version."""
        claims = {name: claim for name, claim in self.claims.items() if name != version}
        return self.model_copy(update={"claims": claims})

    def with_offsets(self, moves: OffsetMoves, address: str) -> Self:
        """Return the state with messages applied.

        Raises OffsetsMovedError unless it is where the moves begin, StoreError if there are too many partitions.
        """
        for name, (begin, _) in moves.items():
            if self.offsets.get(name) != begin:
                raise OffsetsMovedError(f"{address}: another process has applied messages of {name}")
        offsets = self.offsets | {name: end for name, (_, end) in moves.items()}
        if len(offsets) > MOST_PARTITIONS:
            raise StoreError(f"{address}: follows {MOST_PARTITIONS:,} partitions, and no more; take fewer")
        return self.model_copy(update={"offsets": offsets})

    def with_change(self, id_: str) -> Self:
        """Return the state after one more change, which has the id."""
        return self.model_copy(update={"seq": self.seq + 1, "id": id_})


def _describe(error: ValidationError) -> str:
    """The first thing that is wrong with a head; nothing for what is no JSON object at all."""
    fault = error.errors(include_url=False)[0]
    if fault["type"] == "json_invalid" or (not isinstance(fault["input"], dict) and not fault["loc"]):
        return ""
    where = ".".join(str(part)[:80] for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    received = "" if fault["type"] in ("value_error", "unknown_key") else f"; received {fault['input']!r:.80}"
    return f": {where}{': ' if where else ''}{message}{received}"

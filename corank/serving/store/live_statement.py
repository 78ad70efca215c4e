"""What is live, as a publisher signed it, and a service that follows nothing else.

Whoever can write to a store can put anything there, also an older head with its signature. So a statement has a time,
each later than the one before, and a service that has accepted one refuses those before it.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from corank.bundle.bundle import Bundle
from corank.bundle.signatures import Signatures, SigningKeys, TrustedKeys
from corank.core.errors import BundleError, TrustError
from corank.core.files import write_text
from corank.core.settings import Settings
from corank.core.time import format_time, now_ms

if TYPE_CHECKING:
    from corank.serving.funnel.funnel import Funnel  # which loads ONNX Runtime


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
            cache: folder of fetched bundles; the newest statement is kept there, for a service that starts anew.
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

        Returns the statement. Raises TrustError.
        """
        what = f"{self._address}: the head, by which {version} is live,"
        signed = statement or LiveStatement(version=version, manifest=manifest, seq=0, at=0)
        self.keys.verify(signed.content, signed.signatures, what)
        if (signed.version, signed.manifest) != (version, manifest):
            raise TrustError(f"{what} was altered: {signed.version} was signed as live; publish it again")
        kept = self._read_kept()
        newest = max(filter(None, (kept, self._newest, signed)), key=lambda one: one.at)
        if signed.at < newest.at:
            raise TrustError(
                f"{what} was signed at {format_time(signed.at)}; {newest.version} went live after it, at "
                f"{format_time(newest.at)}: an old head was put back; publish or roll back with --sign"
            )
        self._newest = signed
        if kept is None or kept.at < signed.at:
            write_text(self._file, signed.model_dump_json())
        return signed

    def load_newest(self) -> "Funnel | None":
        """Load the version of the newest statement from the cache; None if it is not there whole, and signed."""
        from corank.serving.funnel.funnel import Funnel

        with suppress(BundleError, TrustError):
            if kept := self._read_kept():
                bundle = Bundle.open(self._file.with_name(kept.version), trust=self.keys)
                return Funnel(bundle).with_changes(kept.seq, kept.items_id)
        return None

    def _read_kept(self) -> LiveStatement | None:
        """The newest statement that a process with this cache has accepted; None if there is none, or it is damaged."""
        with suppress(OSError, ValueError, TrustError):
            kept = LiveStatement.model_validate_json(self._file.read_bytes())
            self.keys.verify(kept.content, kept.signatures, str(self._file))
            return kept
        return None

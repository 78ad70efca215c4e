"""Signatures of versions by ed25519 keys, which lie in PEM files as openssl writes them.

openssl genpkey -algorithm ed25519 -out private.pem && chmod 600 private.pem
openssl pkey -in private.pem -pubout -out public.pem

The name of a bundle's content folder, which is the name of a version.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field

from corank.core.errors import ConfigError, TrustError
from corank.core.lazy import lazy
from corank.core.settings import Settings, validate

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519
else:
    _PRIMITIVES = "cryptography.hazmat.primitives"
    exceptions = lazy("cryptography.exceptions", "a signature")
    hashes = lazy(f"{_PRIMITIVES}.hashes", "a signature")
    serialization = lazy(f"{_PRIMITIVES}.serialization", "a signature")
    ed25519 = lazy(f"{_PRIMITIVES}.asymmetric.ed25519", "a signature")

HEX = 16
"""Hex digits of a fingerprint."""
LARGEST = 2**20
"""Bytes of a key file."""
PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


class Signature(Settings):
    """A signature, and the key that made it."""

    key: str = Field(pattern=rf"^[0-9a-f]{{{HEX}}}$")
    """Fingerprint of the public key."""
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")
    """64 bytes in hex."""


Signatures = Annotated[list[Signature], Field(max_length=16)]


class _Signed(Settings):
    signatures: Signatures


def read_signatures(value: object, source: str) -> list[Signature]:
    """Read signatures from a JSON value. Raises TrustError, which names `source`."""
    try:
        return validate(_Signed, {"signatures": value}, source).signatures
    except ConfigError as error:
        raise TrustError(str(error)) from None


def key_fingerprint(key: ed25519.Ed25519PublicKey) -> str:
    """Return the first 16 hex digits of the SHA-256 of a public key in DER form (SubjectPublicKeyInfo)."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return digest.finalize().hex()[:HEX]


class TrustedKeys:
    """Public keys, one of which must have signed what is served.

    Example:
        TrustedKeys.load([Path("public.pem")])
    """

    def __init__(self, keys: Iterable[ed25519.Ed25519PublicKey]) -> None:
        self._keys = {key_fingerprint(key): key for key in keys}

    @classmethod
    def load(cls, files: Sequence[Path]) -> Self | None:
        """Read PEM files, each of one public key or several; None if there are no files. Raises TrustError."""
        return cls(key for file in files for key in _read_public_keys(file)) if files else None

    def __str__(self) -> str:
        return ", ".join(self._keys)

    def verify(self, content: bytes, signatures: Sequence[Signature], what: str) -> None:
        """Check that a trusted key signed some content.

        Args:
            content: the signed bytes.
            signatures: those that came with it.
            what: names it in the error.

        Raises TrustError.
        """
        if not signatures:
            raise TrustError(f"{what} is not signed; trusted keys: {self}; publish it with --sign")
        known = [one for one in signatures if one.key in self._keys]
        if not known:
            signers = ", ".join(one.key for one in signatures)
            raise TrustError(
                f"{what} is signed by {signers}, which is not trusted; trusted keys: {self}; "
                "publish it with --sign and a trusted key, or trust that key"
            )
        if not any(_fits(self._keys[one.key], one, content) for one in known):
            raise TrustError(
                f"{what} was altered after {', '.join(one.key for one in known)} signed it; publish it again"
            )


def _fits(key: ed25519.Ed25519PublicKey, signature: Signature, content: bytes) -> bool:
    try:
        key.verify(bytes.fromhex(signature.signature), content)
    except exceptions.InvalidSignature:
        return False
    return True


class SigningKeys:
    """Private keys, each of which signs what is published.

    Example:
        SigningKeys.load([Path("private.pem")])
    """

    def __init__(self, keys: Iterable[ed25519.Ed25519PrivateKey]) -> None:
        self._keys = {key_fingerprint(key.public_key()): key for key in keys}

    @classmethod
    def load(cls, files: Sequence[Path]) -> Self | None:
        """Read PEM files of one private key each; None if there are no files. Raises TrustError."""
        return cls(map(_read_private_key, files)) if files else None

    def sign(self, content: bytes) -> list[Signature]:
        """Sign some content with every key."""
        return [Signature(key=name, signature=key.sign(content).hex()) for name, key in self._keys.items()]

    def have_signed(self, content: bytes, signatures: Sequence[Signature]) -> bool:
        """Whether every key has signed some content."""
        return all(one in signatures for one in self.sign(content))  # an ed25519 signature is deterministic

    def add(self, content: bytes, signatures: Sequence[Signature]) -> list[Signature]:
        """Return signatures of some content with those of these keys, which replace earlier ones of theirs."""
        return self.sign(content) + [one for one in signatures if one.key not in self._keys]

    def public(self) -> TrustedKeys:
        """The public keys."""
        return TrustedKeys(key.public_key() for key in self._keys.values())


def _read_private_key(path: Path) -> ed25519.Ed25519PrivateKey:
    content = _read(path, private=True)
    if b"PRIVATE KEY-----" not in content:
        kind = "a public key" if b"PUBLIC KEY-----" in content else "no private key in PEM form"
        raise TrustError(f"{path}: is {kind}; --sign takes the private key that `openssl genpkey` writes")
    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError:
        raise TrustError(
            f"{path}: is protected by a passphrase, which corank cannot ask for; give a key without one, in a file "
            "that only its owner can read: openssl pkey -in KEY -out PLAIN"
        ) from None
    except (ValueError, exceptions.UnsupportedAlgorithm):
        raise TrustError(f"{path}: is no readable private key; make one with openssl genpkey") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _wrong_kind(path, key)
    return key


def _read_public_keys(path: Path) -> list[ed25519.Ed25519PublicKey]:
    content = _read(path)
    if b"PRIVATE KEY-----" in content:
        raise TrustError(f"{path}: is private; --trust takes the public key: openssl pkey -in {path} -pubout")
    blocks = PUBLIC.findall(content)
    if not blocks or len(blocks) != content.count(b"-----BEGIN "):
        raise TrustError(f"{path}: expected public keys in PEM form, as `openssl pkey -pubout` writes them")
    keys = []
    for block in blocks:
        try:
            key = serialization.load_pem_public_key(block)
        except (ValueError, exceptions.UnsupportedAlgorithm):
            raise TrustError(f"{path}: holds a public key that cannot be read") from None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise _wrong_kind(path, key)
        keys.append(key)
    return keys


def _read(path: Path, private: bool = False) -> bytes:
    """The content of a key file. Raises TrustError, for a private key also if others can read it."""
    try:
        with path.open("rb") as file:
            if private and os.fstat(file.fileno()).st_mode & 0o077:
                raise TrustError(f"{path}: others can read this private key; first chmod 600 {path}")
            return file.read(LARGEST)
    except OSError as error:
        raise TrustError(f"{path}: cannot be read: {error.strerror}") from None


def _wrong_kind(path: Path, key: object) -> TrustError:
    kind = re.sub("_?(Private|Public)Key.*", "", type(key).__name__.lstrip("_"))
    return TrustError(
        f"{path}: is a key of kind {kind}; expected ed25519: openssl genpkey -algorithm ed25519"
    )


CONTENT = re.compile(r"[0-9a-f]{16}-[0-9]{1,19}-[0-9a-f]{8}")
"""The name of a content folder."""


def is_content_name(name: str) -> bool:
    """Whether a name is one that `write_content` gives: model version, `items_seq`, and a tag of its own."""
    return CONTENT.fullmatch(name) is not None

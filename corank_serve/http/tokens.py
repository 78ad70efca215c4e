"""Tokens of clients: named, each with a scope, read from a file that may change while the service runs.

A file has a JSON object a line: `{"name": "feed", "scope": "write", "sha256": "…"}`. It holds hashes only. Blank lines
and lines that begin with # are skipped. Several lines may have one name, so that a token can be replaced by another
while both are accepted.
"""

import hmac
import math
import os
import secrets
import stat
import time
from collections.abc import Sequence
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from corank.core.errors import ConfigError
from corank.core.files import atomic_file
from corank.core.removed import REMOVED
from corank.core.reports import Report

RECHECK_SECONDS = 1.0
"""Time after which the file is looked at again."""
OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
"""Permissions that a file of tokens must not have. The group may read it, as a mounted secret of Kubernetes allows."""
LARGEST_FILE = 1 << 20
"""Bytes of a file of tokens."""

ScopeName = Literal["read", "write", "admin"]


class Scope(IntEnum):
    """What a client may do; a scope includes those before it."""

    READ = 1
    """Rank, and read what is live."""
    WRITE = 2
    """Insert items."""
    ADMIN = 3
    """Look for a newer version now."""


class Token(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """A token, known by its hash."""

    name: Annotated[str, Meta(pattern=r"^[\w.@-]{1,64}$")]
    """Its owner, for the audit."""
    scope: ScopeName
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]

    @classmethod
    def of(cls, secret: str, name: str, scope: ScopeName) -> "Token":
        """Make the token of a secret."""
        return cls(name, scope, sha256(secret.encode()).hexdigest())

    @property
    def allows(self) -> Scope:
        """The scope of its owner."""
        return Scope[self.scope.upper()]


class Tokens:
    """The tokens of a service."""

    def __init__(
        self, fixed: Sequence[Token] = (), path: Path | None = None, report: Report = lambda line: None
    ) -> None:
        """
        Args:
            fixed: tokens that never change.
            path: file of further tokens, which is read again when it changes.
            report: receives what is wrong with the file; the tokens read before stay.
        """
        self._fixed, self._path, self._report = tuple(fixed), path, report
        self._read: tuple[Token, ...] | None = None
        self._seen: object = None
        self._check_at = -math.inf

    def all(self) -> tuple[Token, ...] | None:
        """The current tokens; None if there is a file, and it could not be read yet."""
        if self._path is None:
            return self._fixed
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + RECHECK_SECONDS
            self._refresh(self._path)
        return None if self._read is None else self._fixed + self._read

    def find(self, secret: str) -> Token | None:
        """Find the token of a secret; None if there is none. All are compared, so that the time tells nothing."""
        digest, match = sha256(secret.encode(errors="surrogateescape")).hexdigest(), None
        for token in self.all() or ():
            if hmac.compare_digest(token.sha256, digest):
                match = token
        return match

    def _refresh(self, path: Path) -> None:
        seen = _fingerprint(path)
        if seen == self._seen and seen is not None:
            return
        try:
            read = read_tokens(path)
        except ConfigError as error:
            if seen != self._seen or self._read is None:
                self._report(f"the tokens of before stay: {error}")
        else:
            if self._read is not None:
                self._report(f"{path}: {len(read)} tokens now")
            self._read = read
        self._seen = seen


def _fingerprint(path: Path) -> object:
    """A value that changes with the file; None if the file cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read a file of tokens. Raises ConfigError, which names the file and the faulty line."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; `corank token NAME` makes a token and the file"
        ) from None
    if mode & OPEN_TO_OTHERS:
        raise ConfigError(f"{path}: has the mode {stat.S_IMODE(mode):04o}; run `chmod 600 {path}`")
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"{path}: a file of tokens has {LARGEST_FILE:,} bytes at most")
    tokens = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip() and not line.startswith(b"#"):
            try:
                tokens.append(msgspec.json.decode(line, type=Token))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                rates = "`rate`" in str(error) or "`burst`" in str(error)
                hint = f"; {REMOVED['ServeSettings.rate_limit']}" if rates else ""
                raise ConfigError(f"{path}:{number}: not a token: {error}{hint}") from None
    return tuple(tokens)


def add_token(path: Path, name: str, scope: ScopeName) -> str:
    """Make a token and add its hash to a file, whole or not at all; it is made with the mode 0600 if it is missing.

    Args:
        path: file of tokens.
        name: of its owner.
        scope: of its owner.

    Returns:
        The secret, which is stored nowhere.

    Raises ConfigError if the file cannot be written, or is not a file of tokens.
    """
    secret = secrets.token_urlsafe(32)
    line = msgspec.json.encode(Token.of(secret, name, scope)) + b"\n"
    try:
        msgspec.json.decode(line, type=Token)
    except msgspec.ValidationError:
        raise ConfigError(f"{name!r}: a token's name has 1 to 64 letters, digits, or . @ _ -") from None
    file = Path(os.path.realpath(path))  # of a link, what it names is replaced
    from corank.core.locks import hold_lock  # loads numpy, which the parent of workers does without

    try:
        with hold_lock(file.with_name(f".{file.name}.lock"), remove=True):
            content, status = b"", file.stat() if file.exists() else None
            if status is not None:
                read_tokens(path)
                content = file.read_bytes()
            with atomic_file(file) as partial:
                if status is not None:
                    os.chown(partial, status.st_uid, status.st_gid)
                partial.chmod(0o600 if status is None else stat.S_IMODE(status.st_mode))
                ended = not content or content.endswith(b"\n")
                partial.write_bytes(content + (line if ended else b"\n" + line))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    return secret

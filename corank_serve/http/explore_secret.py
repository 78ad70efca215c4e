"""The file of the secret by which pages are drawn. Few imports: the parent of the workers makes it."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from corank.core.errors import ConfigError
from corank.core.files import make_private_folder, sync
from corank_serve.http.serve_settings import ExploreSettings, ServeSettings
from corank_serve.http.tokens import OPEN_TO_OTHERS

SECRET = "explore-secret"
"""The file in `--cache`, unless the settings name another."""
LEAST_BYTES, MOST_BYTES = 16, 4096
"""Of a secret."""


def read_secret(settings: ServeSettings, explore: ExploreSettings) -> bytes:
    """Read the secret by which pages are drawn; make it if there is none. Raises ConfigError, which names the file."""
    path = explore.secret or settings.cache / SECRET
    try:
        if not path.exists():
            _make(path)
        with path.open("rb") as file:
            mode, secret = os.fstat(file.fileno()).st_mode, file.read(MOST_BYTES + 1).strip()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read or made, and pages are drawn by a secret: {error.strerror}; name a file as "
            "explore: {share: 2%, secret: FILE}"
        ) from None
    if mode & OPEN_TO_OTHERS:
        raise ConfigError(f"{path}: has the mode {stat.S_IMODE(mode):04o}; run `chmod 600 {path}`")
    if not LEAST_BYTES <= len(secret) <= MOST_BYTES:
        raise ConfigError(
            f"{path}: a secret has {LEAST_BYTES} to {MOST_BYTES:,} bytes; received {len(secret):,}; "
            f"run `openssl rand -hex 32 > {path}`"
        )
    return secret


def _make(path: Path) -> None:
    """Make a secret, whole or not at all; that of another process, which was first, stays. Raises OSError."""
    make_private_folder(path.parent)
    partial = path.with_name(f".{path.name}-{token_hex(4)}")
    try:
        partial.touch(0o600, exist_ok=False)
        partial.write_text(token_hex(32) + "\n")
        sync(partial)
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)

"""The password of a Redis server, from a file or the environment."""

import os
from pathlib import Path

from corank.core.errors import StoreError

PASSWORD = "CORANK_REDIS_PASSWORD"
"""Environment variable of the password."""
LONGEST = 4096
"""Characters of a file of a password."""


def read_password(address: str, file: str | None) -> str | None:
    """Return the password of a file, or else of the environment; None if there is none.

    Args:
        address: of the store, for messages.
        file: its path; None for the environment.

    Raises StoreError if others can read the file.
    """
    if file is None:
        return os.environ.get(PASSWORD) or None
    try:
        with Path(file).open(encoding="utf-8") as opened:
            if os.fstat(opened.fileno()).st_mode & 0o077:
                raise StoreError(f"{address}: others can read {file}; first chmod 600 {file}")
            password = opened.read(LONGEST).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{address}: the password cannot be read: {error}") from None
    if not password or "\n" in password:
        raise StoreError(f"{address}: {file}: expected the password alone, on one line")
    return password

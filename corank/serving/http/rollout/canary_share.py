"""Which users get the canary: a share of them, by a hash, always the same ones."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Self

from corank.bundle.checks.content_name import is_content_name

FORM = re.compile(r"(.+):([0-9]*\.?[0-9]+)%")
HASH_BYTES = 8


@dataclass(frozen=True)
class CanaryShare:
    """A version, and the share of the users who get it."""

    version: str
    share: float
    """Above 0, below 1."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `VERSION:5%`. Raises ValueError."""
        match = FORM.fullmatch(text)
        share = float(match[2]) / 100 if match else 0.0
        if match is None or not 0 < share < 1 or not is_content_name(match[1]):
            raise ValueError(
                "expected VERSION:SHARE%, such as 8f0c1d2e3a4b5c6d-1-1a2b3c4d:5%, of a share above 0 and below 100; "
                f"received {text!r}"
            )
        return cls(match[1], share)

    def takes(self, user: Any) -> bool:
        """Whether a user gets the canary; a request without a user's id does not.

        The version salts the hash, so that another canary has other users. A larger share keeps all users of a smaller
        one. Every process on every machine assigns alike.
        """
        if user is None:
            return False
        hashed = hashlib.blake2b(f"{self.version}\0{user}".encode(), digest_size=HASH_BYTES).digest()
        return int.from_bytes(hashed, "big") < self.share * 2.0 ** (8 * HASH_BYTES)

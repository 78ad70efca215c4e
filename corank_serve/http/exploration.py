"""Which requests get a drawn page, and how it is drawn: by hashes under a secret of the service.

Whoever sends requests chooses what they say. Without a secret they could compute ahead which request draws a wanted
item, and its logged propensity would be false. Whether a page is drawn depends on what names the request, so that a
larger share keeps all requests of a smaller one; how it is drawn on all that the request says, so that nothing about
one request tells anything of another.
"""

from hashlib import blake2b, sha256

import msgspec

from corank.features.log_schema import DataSettings
from corank.funnel.exploration import Draw, request_id
from corank.funnel.ranking import Ranking
from corank.funnel.request import Request
from corank_serve.http.explore_secret import read_secret
from corank_serve.http.serve_settings import ExploreSettings, ServeSettings

SEED_BYTES = 8


class Explorer:
    """Draws pages as the settings say."""

    def __init__(self, settings: ExploreSettings, secret: bytes) -> None:
        """
        Args:
            settings: of `explore`.
            secret: the same in all workers, and after a restart.
        """
        self._settings, self._key = settings, sha256(secret).digest()

    @classmethod
    def open(cls, settings: ServeSettings) -> "Explorer | None":
        """The explorer of a service; None if it draws no pages. Raises ConfigError as `read_secret`."""
        explore = settings.explore
        return None if explore is None else cls(explore, read_secret(settings, explore))

    def find_draw(self, one: Ranking, data: DataSettings, caller: str) -> Draw | None:
        """How the page of a request is to be drawn; None if it is not, as that of one which asks for a trace.

        Args:
            one: the request, with the columns of its user that a store has.
            data: of the live version.
            caller: the name of its token.
        """
        asked, settings = one.request, self._settings
        if caller in settings.exclude or asked.trace or "trace" in (asked.fields or ()):
            return None
        name = request_id(asked, data)
        if self._hash(b"explore", name) >= settings.share * 2.0 ** (8 * SEED_BYTES):
            return None
        return Draw(self._hash(b"draw", name + b"\0" + _what_it_says(asked, one.user)), settings.temperature)

    def _hash(self, purpose: bytes, text: bytes) -> int:
        """A hash of 64 bits that nobody without the secret can compute."""
        digest = blake2b(text, digest_size=SEED_BYTES, key=self._key, person=purpose).digest()
        return int.from_bytes(digest, "big")


def _what_it_says(asked: Request, user: str | None) -> bytes:
    """A request as it was sent, without the columns of its user that were looked up."""
    if user not in (None, "given"):
        asked = msgspec.structs.replace(asked, user={"id": asked.user.get("id")})
    return msgspec.json.encode(asked, enc_hook=list)  # of candidates that are an array

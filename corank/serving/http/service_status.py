"""The state of a service: whether it can serve, and how far what it serves is behind its source."""

import time
from typing import Any

from corank.serving.http.follower import Follower
from corank.serving.http.lookup.user_lookup import UserLookup
from corank.serving.http.process.drain import Drain


class ServiceStatus:
    """The current state of one worker process."""

    def __init__(self, follower: Follower, drain: Drain, users: UserLookup | None) -> None:
        """
        Args:
            follower: holds the live funnel.
            drain: begins when the process is asked to end.
            users: looks columns of users up.
        """
        self.follower, self.drain, self.users = follower, drain, users

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here: a funnel is live from the start, with or without the source."""
        return self.drain.began is None or self.drain.service_goes_on

    @property
    def behind_seconds(self) -> float:
        """Seconds since what is served was known to equal the source; since the start if it never was."""
        return time.monotonic() - self.follower.equal_at

    @property
    def users_away(self) -> bool:
        """Whether users are not looked up, since look-ups failed or were late."""
        return self.users is not None and self.users.breaker.is_open

    def describe(self) -> dict[str, Any]:
        """Return all of it."""
        follower = self.follower
        return {
            "ready": self.is_ready,
            "draining": self.drain.began is not None,
            "source": follower.source.address,
            "source_up": follower.trouble is None,
            "source_error": follower.trouble,
            "from_cache": follower.from_cache,
            "served_seq": follower.funnel.manifest.items_seq,
            "known_seq": follower.source.known_seq,
            "behind_seconds": round(self.behind_seconds, 3),
            "resynchronised": follower.source.resynchronised,
            "users_looked_up": self.users is not None and not self.users_away,
            "beside": follower.rollout.describe(),
        }

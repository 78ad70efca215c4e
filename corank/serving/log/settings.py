"""When a file of the log is completed: once it has so many rows, or is so old. A process that is killed loses it.

The role of a version in a service: it answers, answers some users, or is scored only.
"""

from typing import Literal

MAX_ROWS, MAX_SECONDS = 1_000_000, 60.0

Role = Literal["live", "canary", "shadow"]

LIVE: Role = "live"
CANARY: Role = "canary"
SHADOW: Role = "shadow"

"""What a version is to a service: it answers, answers some users, or is scored beside the one that answers."""

from typing import Literal

Role = Literal["live", "canary", "shadow"]

LIVE: Role = "live"
CANARY: Role = "canary"
SHADOW: Role = "shadow"

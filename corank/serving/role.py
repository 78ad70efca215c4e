"""The role of a version in a service: it answers, answers some users, or is scored only."""

from typing import Literal

Role = Literal["live", "canary", "shadow"]

LIVE: Role = "live"
CANARY: Role = "canary"
SHADOW: Role = "shadow"

"""The launcher's description of this process in its environment, in torchrun's form."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from corank.core.errors import DistributedError

WORLD_SIZE = "WORLD_SIZE"
STARTED_HERE = "CORANK_STARTED_HERE"
"""Set for processes that `corank train --workers` started, which prints for them."""


@dataclass(frozen=True)
class LaunchEnvironment:
    """The place of this process among those of a launch, and where they meet."""

    rank: int
    world: int
    local_rank: int
    """Among the processes of this machine."""
    address: str
    port: int
    restarts: int = 0
    """How often the agent has started all processes again."""
    has_agent: bool = False
    """Whether an elastic agent started the process, and keeps the store where the processes meet."""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Self | None:
        """Read the environment; None if no launcher started this process, so that it trains alone.

        Raises DistributedError, which names the variable, if one is missing or invalid.
        """
        variables = os.environ if environment is None else environment
        if WORLD_SIZE not in variables:
            return None
        world = _number(variables, WORLD_SIZE, 1, 2**16)
        rank = _number(variables, "RANK", 0, world - 1)
        address = variables.get("MASTER_ADDR", "")
        if not address:
            raise _refusal("MASTER_ADDR", "a host name", None)
        return cls(
            rank,
            world,
            _number(variables, "LOCAL_RANK", 0, world - 1),
            address,
            _number(variables, "MASTER_PORT", 1, 2**16 - 1),
            _number(variables, "TORCHELASTIC_RESTART_COUNT", 0, 2**31, "0"),
            variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )


def is_first() -> bool:
    """Whether this process is the one of its launch that reports, or no launcher started it."""
    launch = LaunchEnvironment.read()
    return launch is None or launch.rank == 0


def is_started_here() -> bool:
    """Whether a process of corank started this one to train with others, and prints the result itself."""
    return STARTED_HERE in os.environ


def _number(
    variables: Mapping[str, str], name: str, least: int, most: int, default: str | None = None
) -> int:
    text = variables.get(name, default)
    if text is None or not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise _refusal(name, f"a number from {least} to {most}", text)
    return int(text)


def _refusal(name: str, expected: str, received: str | None) -> DistributedError:
    got = "it is not set" if received is None else f"received {received!r}"
    return DistributedError(
        f"environment variable {name}: expected {expected}; {got}. {WORLD_SIZE} is set, as torchrun does; start by "
        f"torchrun or `corank train --workers`, or unset {WORLD_SIZE} to train in one process"
    )

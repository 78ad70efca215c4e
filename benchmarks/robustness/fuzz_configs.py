"""Mutated configs: each is read, or refused by an error that names what is wrong, within a second."""

import tempfile
from pathlib import Path

from tests.support.hostile_configs import make_world, read_mutations


def fuzz_configs(cases: int, seed: int) -> dict[str, float]:
    """Read mutated configs.

    Returns:
        `cases`; `failed`, those that raised what is no error of the user's; `hung`, those that took over a second;
        `slowest_s`; `accepted`, those in which the mutation did no harm.
    """
    with tempfile.TemporaryDirectory() as folder:
        outcome = read_mutations(make_world(Path(folder)), cases, seed)
    return {
        "cases": outcome.cases,
        "failed": outcome.failed,
        "hung": outcome.hung,
        "slowest_s": outcome.slowest,
        "accepted": outcome.accepted,
    }

"""Mutated messages to `corank follow items`, `users` and `log`, which must go on, lose no row, and spoil no store."""

import os
import tempfile
from collections import Counter
from pathlib import Path

from tests.support.hostile_messages import attack, hostile_log, hostile_store, takes_a_version
from tests.support.kafka_broker import Broker, kafka_broker
from tests.support.shared import derived

KINDS = ("items", "users", "log")
JSON_SHARE = 2 / 17
"""Of the messages; the others are of Arrow."""


def fuzz_follow(cases: int, seed: int) -> dict[str, float]:
    """Send so many mutated messages, a third to each command, with sound ones among them.

    Returns `cases`; `failed`: ends of a follower; `lost`: rows that are neither applied nor among the dead letters;
    `wronged`: sound messages among the dead letters; `letters`; and `unpublished`: stores that take no new version.
    """
    counts = Counter[str](failed=0, unpublished=0)
    assert derived().funnel  # exports the bundle
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["HOME"] = temporary
        with kafka_broker(Path(temporary)) as broker:
            for kind in KINDS:
                folder = Path(temporary) / kind
                folder.mkdir()
                counts += _fuzz(kind, broker, folder, cases // len(KINDS), seed)
    return {
        name: float(counts[name]) for name in ("cases", "letters", "failed", "lost", "wronged", "unpublished")
    }


def _fuzz(kind: str, broker: Broker, folder: Path, cases: int, seed: int) -> Counter[str]:
    plain = round(cases * JSON_SHARE)
    if kind == "log":
        return attack(broker, hostile_log(folder), folder, cases - plain, plain, seed)
    with hostile_store(kind, folder) as (target, store):
        counts = attack(broker, target, folder, cases - plain, plain, seed)
        counts["unpublished"] = not takes_a_version(store, folder)
    return counts

"""What a service answers, as types. Fields that a later version adds are ignored."""

from typing import Any

import msgspec


class RankedItem(msgspec.Struct, frozen=True):
    """An item of an answer."""

    id: int | str
    score: float
    scores: dict[str, float] = {}
    """By stage, if the request chose `scores`."""


class RankAnswer(msgspec.Struct, frozen=True):
    """The answer to a request; what the request did not choose is empty."""

    model_version: str = ""
    items_seq: int = 0
    items_id: str = ""
    stage: str = ""
    """Whose scores these are."""
    items: list[RankedItem] = []
    """What the last stage keeps, best first."""
    ids: list[int | str] = []
    unknown: list[int | str] = []
    missing: list[str] = []
    warnings: list[str] = []
    fallback: dict[str, str] | None = None
    user: str = ""
    trace: list[dict[str, Any]] = []
    microseconds: dict[str, int] = {}


class BatchPart(RankAnswer, frozen=True):
    """A part of the answer to a batch: an answer, or an error."""

    error: str | None = None
    status: int = 200


class BatchAnswer(msgspec.Struct, frozen=True):
    """The answer to a batch."""

    answers: list[BatchPart]


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The answer of a request that is refused."""

    error: str = ""

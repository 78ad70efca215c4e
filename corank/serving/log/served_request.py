"""One served request as a few bytes: what the log needs of a ranking, kept until it is written.

Letters: n ranked candidates.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.role import Role

OVERHEAD = 512
"""Bytes of a pending request besides its contents, about."""


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """A request that was ranked, encoded."""

    request: bytes
    """The request as JSON, with its time and its candidates, which it may have left to the service."""
    unknown: bytes
    """Ids of the candidates that were left out, as a JSON list."""
    levels: bytes
    """Index of the level that each candidate reached, uint8: (n,)."""
    scores: tuple[bytes, ...]
    """By stage the scores, float64, NaN where the stage scored nothing: (n,)."""
    model_version: str
    items_seq: int
    items_id: str
    id: str
    """Of this time that the request was served."""
    role: Role
    """Of the version."""

    @classmethod
    def of(cls, result: RankingResult, id_: str, role: Role) -> "ServedRequest":
        """Encode a result. Raises TypeError, ValueError or OverflowError for a request that JSON cannot hold."""
        encoded, request = result.encoded, result.request
        fields = msgspec.structs.asdict(request)
        del fields["retrieve"], fields["where"], fields["fields"]
        candidates = encoded.ids if request.candidates is None else request.candidates
        fields |= {"time": encoded.time, "candidates": [*candidates]}
        return cls(
            msgspec.json.encode(fields),
            msgspec.json.encode(encoded.unknown),
            find_level_codes(result).tobytes(),
            tuple(_scores(result, stage.name).tobytes() for stage in result.manifest.stages),
            result.manifest.model_version,
            result.manifest.items_seq,
            result.manifest.items_id,
            id_,
            role,
        )

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return (
            OVERHEAD + len(self.request) + len(self.unknown) + len(self.levels) + sum(map(len, self.scores))
        )

    def fields(self) -> dict[str, Any]:
        """The request's fields."""
        decoded: dict[str, Any] = msgspec.json.decode(self.request)
        return decoded

    def unknown_ids(self) -> list[Any]:
        """Ids of the candidates that were left out."""
        decoded: list[Any] = msgspec.json.decode(self.unknown)
        return decoded


def find_level_codes(result: RankingResult) -> NDArray[np.uint8]:
    """Find the index of the level that each candidate reached: (n,).

    Exposure is not among them, since the service cannot see it.
    """
    levels = result.manifest.data.levels
    codes = np.zeros(len(result.encoded.ids), dtype=np.int64)
    for n, stage in enumerate(result.manifest.stages[: len(result.cuts)]):
        cut = result.cuts[n]
        level = levels.index(stage.cuts[-1]) if stage.cuts else n
        codes[cut.alive] = level
        codes[cut.alive[cut.kept]] = level + 1
    return np.minimum(codes, max(len(levels) - 2, 0)).astype(np.uint8)


def _scores(result: RankingResult, stage: str) -> NDArray[np.float64]:
    """The scores of one stage, NaN for a candidate that it did not score: (n,)."""
    scores = np.full(len(result.encoded.ids), np.nan)
    for cut in result.cuts:
        if cut.stage == stage:
            scores[cut.alive] = cut.score
    return scores

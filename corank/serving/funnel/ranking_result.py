"""One request on its way through the stages: who was cut where, by which score, how long it took; the answer.

Letters: n candidates · a of them alive.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from corank.bundle.manifest import BundleManifest, StageFacts
from corank.core.ordering import top_k
from corank.core.types import Longs, Numbers
from corank.serving.funnel.request import Request
from corank.serving.funnel.request_encoder import EncodedRequest


@dataclass(frozen=True)
class StageCut:
    """What a stage did."""

    stage: str
    alive: Longs
    """The candidates that it saw: (a,)."""
    score: Numbers
    """Of them: (a,)."""
    kept: Longs
    """Where in `alive` those are that it keeps, best first, ties in their order."""

    @cached_property
    def order(self) -> Longs:
        """All of `alive`'s places, best first; the kept come first."""
        return np.argsort(-self.score, kind="stable")


@dataclass
class RankingResult:
    manifest: BundleManifest
    request: Request
    received: EncodedRequest
    quotas: Mapping[str, int]
    cuts: list[StageCut] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of `receive`, and of each stage that was through."""
    fallback: dict[str, str] | None = None
    """The stage that was not, and why: skipped, late or failed."""

    def took(self, what: str, since: float) -> None:
        self.seconds[what] = time.perf_counter() - since

    def cut(self, stage: StageFacts, alive: Longs, score: Numbers) -> Longs:
        """Those that the stage keeps, best first."""
        kept = top_k(score, self.quotas[stage.name])
        if stage.min_score is not None:
            kept = kept[score[kept] >= stage.min_score]
        self.cuts.append(StageCut(stage.name, alive, score, kept))
        return alive[kept]

    def fall_back(self, stage: StageFacts, why: str) -> None:
        self.fallback = {"stage": stage.name, "why": why}

    def answer(self) -> dict[str, Any]:
        """What the last stage keeps; what it would, of the order of the last that was through, where it was not."""
        last, ids = self.cuts[-1], self.received.ids
        kept = last.kept[: self.quotas[self.manifest.stages[-1].name]]
        answer: dict[str, Any] = {
            "model_version": self.manifest.model_version,
            "items_seq": self.manifest.items_seq,
            "stage": last.stage,
            "items": [
                {"id": ids[n], "score": score}
                for n, score in zip(last.alive[kept].tolist(), last.score[kept].tolist(), strict=True)
            ],
            "unknown": self.received.unknown,
            "missing": self.received.missing,
        }
        if self.fallback:
            answer["fallback"] = self.fallback
        if self.request.trace:
            answer["trace"] = self.trace()
        return answer

    def trace(self) -> list[dict[str, Any]]:
        """For every candidate its score and rank (from 1) at each stage it reached, and the stage that cut it."""
        trace: list[dict[str, Any]] = [{"id": id_, "stages": {}, "cut": None} for id_ in self.received.ids]
        for cut in self.cuts:
            order = cut.order
            for rank, (n, score) in enumerate(
                zip(cut.alive[order].tolist(), cut.score[order].tolist(), strict=True), 1
            ):
                trace[n]["stages"][cut.stage] = {"score": score, "rank": rank}
                trace[n]["cut"] = cut.stage if rank > len(cut.kept) else None
        return trace

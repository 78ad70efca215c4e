"""One request's way through the stages: what each stage cut and by which score, times, and the answer.

Letters: n candidates · a of them alive.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import StageFacts
from corank.core.ordering import top_k
from corank.core.types import Longs, Numbers
from corank.serving.funnel.candidates import select_ids
from corank.serving.funnel.request import DEFAULT_FIELDS, Request
from corank.serving.funnel.request_encoder import EncodedRequest


class StageCut(NamedTuple):
    """The candidates that a stage scored and kept."""

    stage: str
    alive: Longs
    """The candidates that it scored: (a,)."""
    score: Numbers
    """Their scores: (a,)."""
    kept: Longs
    """Positions in `alive` of those that it keeps, best first, ties in the order given."""


@dataclass
class RankingResult:
    """A request, its encoding, and what each stage made of it."""

    manifest: BundleManifest
    encoded: EncodedRequest
    quotas: Mapping[str, int]
    """By stage."""
    began: float
    """When the request arrived, by `time.perf_counter`."""
    cuts: list[StageCut] = field(default_factory=list)
    """Of the stages that finished, in order."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of encoding, `receive`, and of each stage that finished, of all requests that were ranked together."""
    fallback: dict[str, str] | None = None
    """The stage that did not finish, `stage`, and `why`: skipped, late or failed."""
    _answered: tuple[Longs, Numbers] | None = field(default=None, init=False)

    @property
    def request(self) -> Request:
        """The request."""
        return self.encoded.request

    def cut(self, stage: StageFacts, alive: Longs, score: Numbers) -> Longs:
        """Apply a stage's quota and `min_score` to the candidates that it scored.

        Returns:
            The candidates that it keeps, best first.
        """
        kept = top_k(score, self.quotas[stage.name])
        if stage.min_score is not None:
            kept = kept[score[kept] >= stage.min_score]
        self.cuts.append(StageCut(stage.name, alive, score, kept))
        return alive.take(kept)

    def fall_back(self, stage: StageFacts, why: str) -> None:
        """Record that a stage did not finish."""
        self.fallback = {"stage": stage.name, "why": why}

    @property
    def answered(self) -> tuple[Longs, Numbers]:
        """The candidates that the answer has, best first, and their scores: what the last stage keeps.

        If the last stage did not finish, it is as many in the order of the last stage that did.
        """
        if self._answered is None:  # a cached property of functools takes a lock
            last = self.cuts[-1]
            kept = last.kept[: self.quotas[self.manifest.stages[-1].name]]
            self._answered = last.alive.take(kept), last.score.take(kept)
        return self._answered

    def to_answer(self, user: str | None = None) -> dict[str, Any]:
        """The answer, of the fields that the request chooses: the items, and how they came about.

        Args:
            user: what is said of the user; None in process, where nobody is looked up.
        """
        request, manifest = self.request, self.manifest
        positions, values = self.answered
        chosen = DEFAULT_FIELDS if request.fields is None else frozenset(request.fields)
        answer: dict[str, Any] = {
            "model_version": manifest.model_version,
            "items_seq": manifest.items_seq,
            "items_id": manifest.items_id,
            "stage": self.cuts[-1].stage,
        }
        answered = select_ids(self.encoded.ids, positions)
        if "items" in chosen or "scores" in chosen:
            answer["items"] = items = [
                {"id": id_, "score": score} for id_, score in zip(answered, values.tolist(), strict=True)
            ]
            if "scores" in chosen:
                for item, scores in zip(items, self._scores(positions), strict=True):
                    item["scores"] = scores
        if "ids" in chosen:
            answer["ids"] = [*answered]
        answer |= {"unknown": self.encoded.unknown, "missing": self.encoded.missing}
        if self.encoded.warnings:
            answer["warnings"] = [warning.text for warning in self.encoded.warnings]
        if self.fallback:
            answer["fallback"] = self.fallback
        trace = request.trace and request.fields is None
        if trace or "trace" in chosen:
            answer["trace"] = self.to_trace()
        if user is not None:
            answer["user"] = user
        if (trace and user is not None) or "microseconds" in chosen:
            answer["microseconds"] = {name: round(s * 1e6) for name, s in self.seconds.items()}
        if request.fields is None:
            return answer
        return {name: value for name, value in answer.items() if name in chosen or name == "items"}

    def _scores(self, candidates: Longs) -> list[dict[str, float]]:
        """By stage the scores of some candidates: those that it scored."""
        scores: list[dict[str, float]] = [{} for _ in candidates]
        for cut in self.cuts:
            score = np.full(len(self.encoded.ids), np.nan)
            score[cut.alive] = cut.score
            for one, value in zip(scores, score[candidates].tolist(), strict=True):
                one[cut.stage] = value
        return scores

    def to_trace(self) -> list[dict[str, Any]]:
        """For every candidate its score and rank, from 1, at each stage it reached, and the stage that cut it."""
        trace: list[dict[str, Any]] = [{"id": id_, "stages": {}, "cut": None} for id_ in self.encoded.ids]
        for cut in self.cuts:
            order = np.argsort(-cut.score, kind="stable")  # the kept ones come first
            for rank, (n, score) in enumerate(
                zip(cut.alive[order].tolist(), cut.score[order].tolist(), strict=True), 1
            ):
                trace[n]["stages"][cut.stage] = {"score": score, "rank": rank}
                trace[n]["cut"] = cut.stage if rank > len(cut.kept) else None
        return trace

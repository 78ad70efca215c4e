"""A bundle ready to rank: one request through the stages, in process, without torch.

Letters: n candidates.
"""

import math
import time
from contextlib import nullcontext, suppress
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
from onnxruntime import RunOptions

from corank.bundle.bundle import Bundle
from corank.bundle.content import read_snapshots, read_vectors
from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest, StageFacts
from corank.bundle.retrieval import Retrieval
from corank.core.calibration import Platt
from corank.core.errors import BundleError, DataError, RequestError
from corank.core.formula import Formula
from corank.core.ordering import stage_value
from corank.core.types import Floats, Longs, Numbers
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.features.schema import Schema
from corank.serving.funnel.deadline import DeadlineTimer, LatencyTracker
from corank.serving.funnel.inspect import shown
from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.funnel.request import Request
from corank.serving.funnel.request_encoder import EncodedRequest, RequestEncoder, Retrieve
from corank.serving.funnel.scorer import Scorer
from corank.serving.funnel.stage_scorer import RUNTIME_ERRORS, Candidates, Shared

__all__ = ["Funnel", "Request"]


class Funnel:
    """Ranks requests by one model version. Safe to share between threads once opened."""

    def __init__(self, bundle: Bundle) -> None:
        self.manifest: BundleManifest = bundle.manifest
        folder, schema = bundle.folder, bundle.manifest.declared
        stages, columns = self.manifest.stages, self.manifest.data.columns
        self.schema: Schema = schema
        self._paces = {stage.name: LatencyTracker() for stage in stages}
        self._watch = DeadlineTimer() if any(stage.deadline_ms for stage in stages) else None
        self._calibrators = {
            stage.name: {label: Platt(c.slope, c.intercept) for label, c in stage.calibrators.items()}
            for stage in stages
        }
        self._values = {s.name: Formula.parse(s.value, [*s.labels, *columns]) for s in stages}
        try:
            encoders = Encoders.load(folder / "encoders", schema)
            self.scorer = Scorer(folder, self.manifest, Layout(schema, encoders.sizes))
            records = ItemRecords.load(folder / "items", encoders, self.manifest.item_columns)
            items = LayeredItems((ItemLayer(records, read_vectors(folder, self.manifest)),))
            self.retrieval = Retrieval.open(folder, items)
            self.request_encoder = RequestEncoder(
                self.manifest,
                encoders,
                items,
                read_snapshots(folder, self.manifest),
                list(dict.fromkeys(stage.attended.history for stage in stages if stage.attended)),
                {name for value in self._values.values() for name in value.names},
                self.scorer.vectors,
            )
        except DataError as error:
            raise BundleError(f"{error}; export the bundle again") from None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises BundleError if the bundle is truncated, altered or of mixed versions."""
        return cls(Bundle.open(path))

    def renewed(self, items_seq: int, newer: ItemLayer | None = None) -> Self:
        """The same funnel after a later change, with newer items; this one stays as it is."""
        other = copy(self)
        other.manifest = self.manifest.model_copy(update={"items_seq": items_seq})
        if newer is not None:
            items = self.request_encoder.items.with_items(newer)
            other.request_encoder = self.request_encoder.renewed(items)
            other.retrieval = self.retrieval and self.retrieval.with_items(items)
        return other

    def rank(self, request: Request) -> dict[str, Any]:
        """The candidates that the last stage keeps, best first, with their score; the trace of all if asked for.

        A stage orders by its `value`, of calibrated probabilities, ties in the order given. Raises RequestError.
        """
        return self.ranked(request).answer()

    def ranked(self, request: Request, arrived: float | None = None) -> RankingResult:
        """The same, with what happened on the way. A stage whose deadline passes leaves the order to the one before.

        Args:
            arrived: when the request did, by `time.perf_counter`; now unless given.

        Raises RequestError.
        """
        began = time.perf_counter() if arrived is None else arrived
        quotas = self._quotas(request)
        received = self.request_encoder.encode(request, self._retrieve(request))
        ranked = RankingResult(self.manifest, request, received, quotas)
        ranked.took("receive", began)
        alive: Longs = np.arange(len(received.ids))
        shared: Shared = {}
        for stage in self.manifest.stages:
            score = self._in_time(stage, received, alive, shared, began, ranked)
            if score is None:
                break
            alive = ranked.cut(stage, alive, score)
        return ranked

    def _retrieve(self, request: Request) -> Retrieve | None:
        if self.retrieval is None:
            return None
        retrieval, where = self.retrieval, self.request_encoder.where(request)
        scorer = self.scorer.vector_stages[retrieval.settings.stage]
        k = request.retrieve or retrieval.settings.keep
        return lambda query: retrieval.search(scorer.query_vector(query, {}), k, where)

    def _in_time(
        self,
        stage: StageFacts,
        received: EncodedRequest,
        alive: Longs,
        shared: Shared,
        began: float,
        ranked: RankingResult,
    ) -> Numbers | None:
        """The stage's scores; None if it is late or fails, and another stage's order is there."""
        since, pace = time.perf_counter(), self._paces[stage.name]
        due = began + stage.deadline_ms / 1000 if stage.deadline_ms is not None else math.inf
        if since + pace.p99 > due:
            pace.skipped()
            ranked.fall_back(stage, "skipped")
            return None
        options: RunOptions | None = None
        try:
            with self._watch.until(due) if self._watch and due < math.inf else nullcontext() as options:
                scores = self._scores(stage, received, alive, shared, options)
        except RUNTIME_ERRORS:
            if not ranked.cuts:
                raise
            ranked.fall_back(stage, "late" if options is not None and options.terminate else "failed")
            return None
        finally:
            pace.took(time.perf_counter() - since)
        ranked.took(stage.name, since)
        return scores

    def described(self, item: str) -> dict[str, Any] | None:
        """An item as people read it, None for one that is not there."""
        return shown(self.request_encoder.items, self.request_encoder.encoders, item)

    def warm(self, request: Request) -> None:
        """Rank a request for nobody, which may lack what is needed. How long it takes tells nothing of later ones."""
        with suppress(RequestError):
            self.ranked(request)
        self._paces = {name: LatencyTracker() for name in self._paces}

    def logits(self, request: Request) -> dict[str, dict[str, Floats]]:
        """Every stage's logits for all candidates, uncut: stage → label → (n,). Raises RequestError."""
        received = self.request_encoder.encode(request, self._retrieve(request))
        everyone: Longs = np.arange(len(received.ids))
        shared: Shared = {}
        return {
            stage.name: self.scorer.logits(
                stage, Candidates(self.request_encoder, received, everyone, shared)
            )
            for stage in self.manifest.stages
        }

    def _scores(
        self,
        stage: StageFacts,
        received: EncodedRequest,
        alive: Longs,
        shared: Shared,
        options: RunOptions | None = None,
    ) -> Numbers:
        """The stage's value of some candidates."""
        candidates = Candidates(self.request_encoder, received, alive, shared, options)
        logits = self.scorer.logits(stage, candidates)
        value = self._values[stage.name]
        columns = {n: received.column(n, alive) for n in value.names if n in self.manifest.data.columns}
        scores = stage_value(value, logits, self._calibrators[stage.name], columns)
        odd = np.flatnonzero(~np.isfinite(scores))
        if len(odd):
            raise RequestError(
                f"stage '{stage.name}': the value of {received.ids[alive[odd[0]]]!r} is {scores[odd[0]]}; look for "
                "extreme numbers in the request"
            )
        return scores

    def _quotas(self, request: Request) -> dict[str, int]:
        quotas = {stage.name: stage.keep for stage in self.manifest.stages}
        for name in request.keep:
            if name not in quotas:
                raise RequestError(f"keep: no stage '{name}'; the bundle's stages are {', '.join(quotas)}")
        return quotas | dict(request.keep)

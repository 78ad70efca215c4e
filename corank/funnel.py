"""A bundle ready to rank: one request through the stages, in process, without torch.

Letters: n candidates.
"""

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corank.asked import Request
from corank.bundle import Bundle, Manifest, StageFacts
from corank.calibrate import Platt
from corank.encode import Encoders
from corank.errors import BundleError, DataError, RequestError
from corank.items import Items, Layer
from corank.layout import Layout
from corank.packed import prior_folder
from corank.prior import Rates, Snapshots
from corank.receive import Received, Receiver
from corank.records import Records
from corank.rows import Floats
from corank.schema import Schema
from corank.scorer import Scorer, Seen, read_vectors
from corank.value import Value

__all__ = ["Funnel", "Request"]

Index = NDArray[np.int64]
Doubles = NDArray[np.floating]


class Funnel:
    """Ranks requests by one model version. Safe to share between threads once opened."""

    def __init__(self, bundle: Bundle) -> None:
        self.manifest: Manifest = bundle.manifest
        folder, schema = bundle.folder, bundle.manifest.declared
        stages, columns = self.manifest.stages, self.manifest.data.columns
        self.schema: Schema = schema
        self._values = {s.name: Value.parse(s.value, [*s.labels, *columns]) for s in stages}
        try:
            encoders = Encoders.load(folder / "encoders", schema)
            self.scorer = Scorer(folder, self.manifest, Layout(schema, encoders.sizes))
            records = Records.load(folder / "items", encoders, self.manifest.item_columns)
            self.receiver = Receiver(
                self.manifest,
                encoders,
                Items((Layer(records, read_vectors(folder, self.manifest)),)),
                snapshots(folder, self.manifest),
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

    def renewed(self, items_seq: int, newer: Layer | None = None) -> Self:
        """The same funnel after a later change, with newer items; this one stays as it is."""
        other = copy(self)
        other.manifest = self.manifest.model_copy(update={"items_seq": items_seq})
        if newer is not None:
            other.receiver = self.receiver.renewed(self.receiver.items.renewed(newer))
        return other

    def rank(self, request: Request) -> dict[str, Any]:
        """The candidates that the last stage keeps, best first, with their score; the trace of all if asked for.

        A stage orders by its `value`, of calibrated probabilities, ties in the order given. Raises RequestError.
        """
        quotas = self._quotas(request)
        received = self.receiver.receive(request)
        alive: Index = np.arange(len(received.ids))
        seen: Seen = {}
        scores: list[tuple[StageFacts, Index, Doubles]] = []
        for stage in self.manifest.stages:
            score = self._scores(stage, received, alive, seen)
            order = np.argsort(-score, kind="stable")
            scores.append((stage, alive[order], score[order]))
            alive = alive[order][: quotas[stage.name]]
        answer: dict[str, Any] = {
            "model_version": self.manifest.model_version,
            "items_seq": self.manifest.items_seq,
            "items": [
                {"id": received.ids[n], "score": float(score)}
                for n, score in zip(alive, scores[-1][2][: len(alive)], strict=True)
            ],
            "unknown": received.unknown,
            "missing": received.missing,
        }
        return answer | ({"trace": _trace(received.ids, scores, quotas)} if request.trace else {})

    def logits(self, request: Request) -> dict[str, dict[str, Floats]]:
        """Every stage's logits for all candidates, uncut: stage → label → (n,). Raises RequestError."""
        received = self.receiver.receive(request)
        everyone: Index = np.arange(len(received.ids))
        seen: Seen = {}
        return {
            stage.name: self.scorer.logits(stage, self.receiver, received, everyone, seen)
            for stage in self.manifest.stages
        }

    def _scores(self, stage: StageFacts, received: Received, alive: Index, seen: Seen) -> Doubles:
        """The stage's value of some candidates."""
        logits, value = (
            self.scorer.logits(stage, self.receiver, received, alive, seen),
            self._values[stage.name],
        )
        probabilities = {
            label: Platt(c.slope, c.intercept).apply(logits[label])
            for label, c in stage.calibrators.items()
            if label in value.names
        }
        if value.single:
            scores = probabilities[value.single]
        else:
            columns = {n: received.column(n, alive) for n in value.names if n in self.manifest.data.columns}
            scores = value(columns | probabilities)
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


def snapshots(folder: Path, manifest: Manifest) -> Snapshots:
    """The priors of a bundle's content. Raises DataError."""
    rates = {name: Rates.load(prior_folder(folder, n)) for n, name in enumerate(manifest.priors)}
    return Snapshots(rates, manifest.data.timezone, manifest.priors)


def _trace(
    ids: list[Any], scores: list[tuple[StageFacts, Index, Doubles]], quotas: Mapping[str, int]
) -> list[dict[str, Any]]:
    """For every candidate its score and place (from 1) at each stage it reached, and the stage that cut it."""
    trace: list[dict[str, Any]] = [{"id": value, "stages": {}, "cut": None} for value in ids]
    for stage, order, score in scores:
        for place, (n, value) in enumerate(zip(order, score, strict=True), start=1):
            trace[n]["stages"][stage.name] = {"score": float(value), "place": place}
            trace[n]["cut"] = stage.name if place > quotas[stage.name] else None
    return trace

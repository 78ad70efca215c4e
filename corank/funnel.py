"""A bundle ready to rank: one request through the stages, in process, without torch.

Letters: n candidates · L events of a history · d last width of the towers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidProtobuf

from corank.arrays import read_array
from corank.asked import Request
from corank.bundle import Attention, Bundle, Manifest, StageFacts
from corank.calibrate import Platt
from corank.encode import Encoders
from corank.errors import BundleError, DataError, RequestError
from corank.layout import Group, Layout, dense, embedded
from corank.packed import prior_folder
from corank.place import places
from corank.prior import Rates, Snapshots
from corank.receive import Received, Receiver
from corank.records import Records
from corank.rows import Floats, Rows
from corank.schema import Placement, Schema
from corank.value import Value

__all__ = ["Funnel", "Request"]

Index = NDArray[np.int64]
Seen = dict[str, Floats]
"""What stages said of all candidates, NaN of those they never saw: `STAGE.score` and `STAGE.place` → (n,)."""


class Funnel:
    """Ranks requests by one model version. Safe to share between threads once opened."""

    def __init__(self, bundle: Bundle) -> None:
        self.manifest: Manifest = bundle.manifest
        folder, schema = bundle.folder, bundle.manifest.declared
        stages = self.manifest.stages
        self.schema: Schema = schema
        attended = [stage.attended for stage in stages if stage.attended]
        columns = self.manifest.data.columns
        self._values = {s.name: Value.parse(s.value, [*s.labels, *columns]) for s in stages}
        try:
            encoders = Encoders.load(folder / "encoders", schema)
            self.layout = Layout(schema, encoders.sizes)
            self.tables = read_tables(folder, self.manifest, self.layout)
            self.receiver = Receiver(
                self.manifest,
                encoders,
                Records.load(folder / "items", encoders, self.manifest.item_columns),
                snapshots(folder, self.manifest),
                list(dict.fromkeys(attention.history for attention in attended)),
                {name for value in self._values.values() for name in value.names},
            )
        except DataError as error:
            raise BundleError(f"{error}; export the bundle again") from None
        towers = [stage.name for stage in stages if stage.model == "towers"]
        self._vectors = {name: read_array(folder / "items" / f"vectors.{name}.npy") for name in towers}
        graphs = [f"{name}.{side}" for name in towers for side in ("query", "item")]
        graphs += [stage.name for stage in stages if stage.model == "mlp"]
        self._graphs = {name: _session(folder / f"{name}.onnx") for name in graphs}
        self._events = {s.name: self._event_groups(s.attended) for s in stages if s.attended}
        self._taken = {f"{stage}.{what}" for s in stages for stage, what in s.from_stages}

    def _event_groups(self, attention: Attention) -> tuple[Group, ...]:
        return self.layout.groups_of("item", attention.features)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises BundleError if the bundle is truncated, altered or of mixed versions."""
        return cls(Bundle.open(path))

    def rank(self, request: Request) -> dict[str, Any]:
        """The candidates that the last stage keeps, best first, with their score; the trace of all if asked for.

        A stage orders by its `value`, of calibrated probabilities, ties in the order given. Raises RequestError.
        """
        quotas = self._quotas(request)
        received = self.receiver.receive(request)
        alive: Index = np.arange(len(received.ids))
        seen: Seen = {}
        scores: list[tuple[StageFacts, Index, NDArray[np.floating]]] = []
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
        return {stage.name: self._logits(stage, received, everyone, seen) for stage in self.manifest.stages}

    def _scores(
        self, stage: StageFacts, received: Received, alive: Index, seen: Seen
    ) -> NDArray[np.floating]:
        """The stage's value of some candidates."""
        logits, value = self._logits(stage, received, alive, seen), self._values[stage.name]
        probabilities = {
            label: Platt(c.slope, c.intercept).apply(logits[label])
            for label, c in stage.calibrators.items()
            if label in value.names
        }
        if value.single:
            scores = probabilities[value.single]
        else:
            scores = value({n: c[alive] for n, c in received.columns.items()} | probabilities)
        odd = np.flatnonzero(~np.isfinite(scores))
        if len(odd):
            raise RequestError(
                f"stage '{stage.name}': the value of {received.ids[alive[odd[0]]]!r} is {scores[odd[0]]}; look for "
                "extreme numbers in the request"
            )
        return scores

    def _logits(self, stage: StageFacts, received: Received, alive: Index, seen: Seen) -> dict[str, Floats]:
        if stage.model == "towers":
            logits = self._dot(stage, received, alive)[:, None]
        else:
            (logits,) = self._graphs[stage.name].run(None, self._inputs(stage, received, alive, seen))
        found = {label: logits[:, n] for n, label in enumerate(stage.labels)}
        if f"{stage.name}.score" in self._taken:
            seen[f"{stage.name}.score"] = np.full(len(received.ids), np.nan, dtype=np.float32)
            seen[f"{stage.name}.score"][alive] = found[stage.main]
        if f"{stage.name}.place" in self._taken:  # of the first stage, which sees everyone
            start = np.array([0, len(alive)])
            seen[f"{stage.name}.place"] = places(found[stage.main], start)
        return found

    def _inputs(self, stage: StageFacts, received: Received, alive: Index, seen: Seen) -> dict[str, Floats]:
        inputs = {
            "query": self._dense(stage, "query", received.query),
            "item": self._dense(stage, "item", received.items.take(alive)),
        }
        if self.layout.width("cross"):
            inputs["cross"] = self._dense(stage, "cross", self.receiver.cross(received, alive))
        if stage.attended:
            items = received.histories[stage.attended.history]
            event = embedded(items, self._events[stage.name], self.tables[stage.tables])
            mask = np.ones(max(len(event), 1), dtype=np.float32)
            if not len(event):  # a graph takes one event at least
                event, mask = np.zeros((1, event.shape[1]), dtype=np.float32), np.zeros_like(mask)
            inputs |= {"event": event, "mask": mask}
        if stage.from_stages:
            columns = [seen[f"{name}.{what}"][alive] for name, what in stage.from_stages]
            inputs["earlier"] = np.stack(columns, axis=1)
        return inputs

    def _dot(self, stage: StageFacts, received: Received, alive: Index) -> Floats:
        assert stage.scale is not None and stage.bias is not None
        given = {"query": self._dense(stage, "query", received.query)}
        (query,) = self._graphs[f"{stage.name}.query"].run(None, given)
        record = received.record[alive]
        vectors = self._vectors[stage.name].take(record, axis=0, mode="clip")
        described = np.flatnonzero(record < 0)
        if len(described):
            new = {"item": self._dense(stage, "item", received.items.take(alive[described]))}
            (vectors[described],) = self._graphs[f"{stage.name}.item"].run(None, new)
        dot: Floats = vectors @ query[0]
        return np.float32(stage.scale) * dot + np.float32(stage.bias)

    def _dense(self, stage: StageFacts, placement: Placement, rows: Rows) -> Floats:
        return dense(rows, self.layout.groups[placement], self.tables[stage.tables])

    def _quotas(self, request: Request) -> dict[str, int]:
        quotas = {stage.name: stage.keep for stage in self.manifest.stages}
        for name in request.keep:
            if name not in quotas:
                raise RequestError(f"keep: no stage '{name}'; the bundle's stages are {', '.join(quotas)}")
        return quotas | dict(request.keep)


def read_tables(folder: Path, manifest: Manifest, layout: Layout) -> dict[str, dict[int, Floats]]:
    """The embedding tables of a bundle's content, memory-mapped: set → dimension → rows. Raises DataError."""
    sets = {stage.tables for stage in manifest.stages}
    return {
        name: {dim: read_array(folder / "tables" / name / f"{dim}.npy") for dim in layout.table_rows}
        for name in sets
    }


def snapshots(folder: Path, manifest: Manifest) -> Snapshots:
    """The priors of a bundle's content. Raises DataError."""
    rates = {name: Rates.load(prior_folder(folder, n)) for n, name in enumerate(manifest.priors)}
    return Snapshots(rates, manifest.data.timezone, manifest.priors)


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # one thread a session: a request is small, and workers take the cores
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidArgument, InvalidProtobuf) as error:
        raise BundleError(
            f"{path}: no graph that the runtime reads ({error}); export the bundle again"
        ) from None


def _trace(
    ids: list[Any], scores: list[tuple[StageFacts, Index, NDArray[np.floating]]], quotas: Mapping[str, int]
) -> list[dict[str, Any]]:
    """For every candidate its score and place (from 1) at each stage it reached, and the stage that cut it."""
    trace: list[dict[str, Any]] = [{"id": value, "stages": {}, "cut": None} for value in ids]
    for stage, order, score in scores:
        for place, (n, value) in enumerate(zip(order, score, strict=True), start=1):
            trace[n]["stages"][stage.name] = {"score": float(value), "place": place}
            trace[n]["cut"] = stage.name if place > quotas[stage.name] else None
    return trace

"""A bundle ready to rank: one request through the stages, in process, without torch.

Letters: n candidates · N items · d last width of the towers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
import polars as pl
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidProtobuf

from corank.arrays import read_array, read_frame, read_rows
from corank.asked import Request, candidates, series, unknown_column
from corank.bundle import Bundle, Manifest, StageFacts
from corank.calibrate import Platt
from corank.encode import Encoders
from corank.errors import BundleError, DataError, RequestError
from corank.layout import Layout, dense
from corank.rows import Floats, Longs, Rows
from corank.schema import Placement, Schema
from corank.vocabulary import Keys, identifiers

__all__ = ["Funnel", "Request"]

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """A request as the stages take it; the candidates that are known or described, in the order given."""

    ids: list[Any]
    query: Rows  # (1)
    items: Rows  # (n)
    cross: Rows  # (n)
    record: Index
    """(n,) Place among the bundle's items, -1 where the item was described in the request."""
    unknown: list[Any]
    missing: list[str]


class Funnel:
    """Ranks requests by one model version. Safe to share between threads once opened."""

    def __init__(self, bundle: Bundle) -> None:
        self.manifest: Manifest = bundle.manifest
        folder, schema = bundle.folder, bundle.manifest.declared
        self.schema: Schema = schema
        try:
            self._encoders = Encoders.load(folder / "encoders", schema)
            self._layout = Layout(schema, self._encoders.sizes)
            self._tables = {
                name: {
                    dim: read_array(folder / "tables" / name / f"{dim}.npy")
                    for dim in self._layout.table_rows
                }
                for name in {stage.tables for stage in self.manifest.stages}
            }
            self._records = read_rows(folder / "items", [None] * len(schema.placed("item").lists))
            self._keys = Keys(read_frame(folder / "items" / "keys.arrow").to_series())
        except DataError as error:
            raise BundleError(f"{error}; export the bundle again") from None
        towers = [stage.name for stage in self.manifest.stages if stage.model == "towers"]
        self._vectors = {name: read_array(folder / "items" / f"vectors.{name}.npy") for name in towers}
        graphs = [f"{name}.{side}" for name in towers for side in ("query", "item")]
        graphs += [stage.name for stage in self.manifest.stages if stage.model == "mlp"]
        self._graphs = {name: _session(folder / f"{name}.onnx") for name in graphs}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises BundleError if the bundle is truncated, altered or of mixed versions."""
        return cls(Bundle.open(path))

    def rank(self, request: Request) -> dict[str, Any]:
        """The candidates that the last stage keeps, best first, with their score; the trace of all if asked for.

        A stage orders by the calibrated probability of its `value`, ties in the order given. Raises RequestError.
        """
        quotas = self._quotas(request)
        encoded = self._encode(request)
        alive: Index = np.arange(len(encoded.ids))
        scores: list[tuple[StageFacts, Index, Floats]] = []
        for stage in self.manifest.stages:
            score = self._scores(stage, encoded, alive)
            order = np.argsort(-score, kind="stable")
            scores.append((stage, alive[order], score[order]))
            alive = alive[order][: quotas[stage.name]]
        answer: dict[str, Any] = {
            "model_version": self.manifest.model_version,
            "items_seq": self.manifest.items_seq,
            "items": [
                {"id": encoded.ids[n], "score": float(score)}
                for n, score in zip(alive, scores[-1][2][: len(alive)], strict=True)
            ],
            "unknown": encoded.unknown,
            "missing": encoded.missing,
        }
        return answer | ({"trace": _trace(encoded.ids, scores, quotas)} if request.trace else {})

    def logits(self, request: Request) -> dict[str, dict[str, Floats]]:
        """Every stage's logits for all candidates, uncut: stage → label → (n,). Raises RequestError."""
        encoded = self._encode(request)
        everyone: Index = np.arange(len(encoded.ids))
        return {stage.name: self._logits(stage, encoded, everyone) for stage in self.manifest.stages}

    def _scores(self, stage: StageFacts, encoded: Encoded, alive: Index) -> Floats:
        logits = self._logits(stage, encoded, alive)[stage.value]
        calibrator = stage.calibrators[stage.value]
        scores = Platt(calibrator.slope, calibrator.intercept).apply(logits)
        if np.isnan(scores).any():
            raise RequestError(
                f"stage '{stage.name}': scores are NaN; look for extreme numbers in the request"
            )
        return np.asarray(scores, dtype=np.float32)

    def _logits(self, stage: StageFacts, encoded: Encoded, alive: Index) -> dict[str, Floats]:
        if stage.model == "towers":
            logits = self._dot(stage, encoded, alive)[:, None]
        else:
            inputs = {
                "query": self._dense(stage, "query", encoded.query),
                "item": self._dense(stage, "item", encoded.items.take(alive)),
            }
            if self._layout.width("cross"):
                inputs["cross"] = self._dense(stage, "cross", encoded.cross.take(alive))
            (logits,) = self._graphs[stage.name].run(None, inputs)
        return {label: logits[:, n] for n, label in enumerate(stage.labels)}

    def _dot(self, stage: StageFacts, encoded: Encoded, alive: Index) -> Floats:
        assert stage.scale is not None and stage.bias is not None
        given = {"query": self._dense(stage, "query", encoded.query)}
        (query,) = self._graphs[f"{stage.name}.query"].run(None, given)
        record = encoded.record[alive]
        vectors = self._vectors[stage.name].take(record, axis=0, mode="clip")
        described = np.flatnonzero(record < 0)
        if len(described):
            new = {"item": self._dense(stage, "item", encoded.items.take(alive[described]))}
            (vectors[described],) = self._graphs[f"{stage.name}.item"].run(None, new)
        dot: Floats = vectors @ query[0]
        return np.float32(stage.scale) * dot + np.float32(stage.bias)

    def _dense(self, stage: StageFacts, placement: Placement, rows: Rows) -> Floats:
        return dense(rows, self._layout.groups[placement], self._tables[stage.tables])

    def _quotas(self, request: Request) -> dict[str, int]:
        quotas = {stage.name: stage.keep for stage in self.manifest.stages}
        for name in request.keep:
            if name not in quotas:
                raise RequestError(f"keep: no stage '{name}'; the bundle's stages are {', '.join(quotas)}")
        return quotas | dict(request.keep)

    def _encode(self, request: Request) -> Encoded:
        given, described = candidates(request)
        record, unknown = self._known(given, described)
        ids = [given[n] for n in np.flatnonzero(~unknown)]
        columns = [described[n] for n in np.flatnonzero(~unknown)]
        record = record[~unknown]
        missing: list[str] = []
        query = self._query(request, missing)
        cross = self._frame("cross", columns, missing)
        try:
            return Encoded(
                ids=ids,
                query=self._encoders.rows(self.schema, "query", query),
                items=self._items(ids, columns, record),
                cross=self._encoders.rows(self.schema, "cross", cross),
                record=record,
                unknown=[given[n] for n in np.flatnonzero(unknown)],
                missing=missing,
            )
        except DataError as error:
            raise RequestError(str(error)) from None

    def _known(self, given: list[Any], described: list[dict[str, Any]]) -> tuple[Index, NDArray[np.bool_]]:
        """Each candidate's place among the records, and whether it is neither there nor described."""
        known, allowed = self._columns("item"), self._columns("item") | self._columns("cross")
        for n, columns in enumerate(described):
            for column in columns:
                if column not in allowed:
                    raise RequestError(f"candidates.{n}: {unknown_column(column, allowed)}")
        try:
            record = self._keys.find(identifiers(series("id", given, "candidates"), "candidates.id"))
        except (DataError, TypeError):
            sample = self._keys.values[0] if len(self._keys) else None
            raise RequestError(
                f"candidates: ids are of another type than the bundle's, such as {sample!r}"
            ) from None
        bare = np.array([known.isdisjoint(columns) for columns in described], dtype=bool)
        return record, (record < 0) & bare

    def _items(self, ids: list[Any], columns: list[dict[str, Any]], record: Longs) -> Rows:
        rows = self._records.take(np.maximum(record, 0)) if len(self._keys) else None
        described = np.flatnonzero(record < 0)
        if rows is not None and not len(described):
            return rows
        given = [{**columns[n], self.manifest.item: ids[n]} for n in described]
        new = self._encoders.rows(self.schema, "item", self._frame("item", given, []))
        return new if rows is None else rows.replaced(described, new)

    def _query(self, request: Request, missing: list[str]) -> pl.DataFrame:
        user = {(self.manifest.user if key == "id" else key): value for key, value in request.user.items()}
        sides = {"user": user, "context": request.context}
        values: dict[str, Any] = {}
        for side, given in sides.items():
            wanted = {self.schema.column(n) for n, f in self.schema.features.items() if f.side == side}
            for column in given:
                if column not in wanted and column != self.manifest.user:
                    raise RequestError(f"{side}: {unknown_column(column, wanted)}")
            absent = wanted - given.keys()
            missing += sorted(f"{side}.{'id' if c == self.manifest.user else c}" for c in absent)
            values |= {column: given[column] for column in wanted & given.keys()}
        return pl.DataFrame(
            [series(c, [v], "request") for c, v in values.items()] or [pl.Series("_", [None])]
        )

    def _frame(self, side: str, rows: list[dict[str, Any]], missing: list[str]) -> pl.DataFrame:
        columns = sorted(self._columns(side) | ({self.manifest.item} if side == "item" else set()))
        missing += [f"{side}.{c}" for c in columns if any(c not in row for row in rows)]
        given = [series(c, [row.get(c) for row in rows], "candidates") for c in columns]
        return pl.DataFrame(given or [pl.Series("_", [None] * len(rows))])

    def _columns(self, side: str) -> set[str]:
        columns = {self.schema.column(n) for n, f in self.schema.features.items() if f.side == side}
        return columns - {self.manifest.item} if side == "item" else columns


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
    ids: list[Any], scores: list[tuple[StageFacts, Index, Floats]], quotas: Mapping[str, int]
) -> list[dict[str, Any]]:
    """For every candidate its score and place (from 1) at each stage it reached, and the stage that cut it."""
    trace: list[dict[str, Any]] = [{"id": value, "stages": {}, "cut": None} for value in ids]
    for stage, order, score in scores:
        for place, (n, value) in enumerate(zip(order, score, strict=True), start=1):
            trace[n]["stages"][stage.name] = {"score": float(value), "place": place}
            trace[n]["cut"] = stage.name if place > quotas[stage.name] else None
    return trace

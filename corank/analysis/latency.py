"""Online latency: microseconds of a feature in one request, and milliseconds of a request by quota.

The parts of a feature:

encode    raw request values → codes and numbers; crosses and priors are computed, histories are looked up
look up   rows of the embedding tables are gathered and pooled
network   its columns of each stage's first layer, for all candidates that reach the stage
Item features are encoded, and item towers run, ahead of the request: that time is not counted.

Letters: n candidates.

Features are measured on the parts of a funnel that encode a request and look tables up, made of a trained model without
graphs on disk.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.core.lazy import lazy
from corank.core.ragged import Rows
from corank.core.types import Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import attribute_codes
from corank.evaluation.predictions import Calibrators
from corank.features.encoders import split_record
from corank.features.encoding import RECORD_PLACEMENTS, Placement
from corank.features.input_layout import embed_rows
from corank.features.operands import OperandRows
from corank.features.row_encoder import RowEncoder
from corank.features.schema import Schema
from corank.funnel.ranking import Ranking, RequestHistory
from corank.funnel.request import Request, to_series
from corank.funnel.request_encoder import EncodedBatch, RequestEncoder, find_items
from corank.funnel.request_reader import RequestReader
from corank.models.settings.stage import StageSettings
from corank.training.config.config import Config

if TYPE_CHECKING:
    from corank.evaluation import item_parts
    from corank.models.joint import JointModel
    from corank.training import export
else:  # what knows a trained model: a bundle is timed without torch
    export, item_parts = lazy("corank.training.export"), lazy("corank.evaluation.item_parts")

ROUNDS, CALLS = 5, 20
"""A measurement is the median of `ROUNDS` rounds; a round is the mean of `CALLS` calls."""


@dataclass(frozen=True)
class FeatureLatency:
    """Microseconds of one feature in one request."""

    encode: float
    look_up: float
    network: float

    def plain(self) -> dict[str, float]:
        """The parts and their total by name, for JSON."""
        return asdict(self) | {"total": self.encode + self.look_up + self.network}


def feature_latencies(
    config: Config, packed: PackedDataset, model: "JointModel", calibrators: Calibrators, request: Request
) -> dict[str, FeatureLatency]:
    """Latency of every input in one request.

    The first stage scores all candidates; each later stage scores what the stage before it keeps.

    Raises:
        RequestError: if the request does not fit the bundle.
    """
    model, stages = model.cpu().eval(), config.stages
    priors = packed.priors.as_of(packed.schema.snapshots(), packed.schema.priors(), packed.manifest.last)
    manifest = export.make_manifest(config, packed, model, calibrators, priors)
    items = LayeredItems((ItemLayer(ItemRecords.of_packed(packed, priors, *packed.newest_items()), {}),))
    named = {name for stage in stages for name in stage.ordering(config.data.columns).names}
    # logged requests describe no items, whose parts would be needed
    reader = RequestReader(manifest, packed.encoders, items.text, retrieves=False)
    receiver = RequestEncoder(manifest, packed.encoders, items, priors, named, lambda rows: {})
    ranking = Ranking(request)
    reader.read(ranking)
    received = receiver.encode([ranking])
    online = _OnlineRequest(model, reader, receiver, request, received, manifest.user)
    met, n = {}, len(received.positions)
    for stage in stages:
        met[stage.name], n = n, min(n, stage.keep)
    latencies = {}
    for name in packed.schema.inputs():
        # crosses are encoded of the candidates of the first stage that reads them
        first = next((stage for stage in stages if online.widths(stage, name)), stages[0])
        times = [online.time_stage(stage, name, met[stage.name]) for stage in stages]
        encode = timed(online.encoding(name, met[first.name]))
        latencies[name] = FeatureLatency(encode, *np.sum(times, axis=0).tolist())
    return latencies


@dataclass(frozen=True)
class _OnlineRequest:
    """A request of which single features are encoded and looked up as a bundle does it, from a trained model."""

    model: "JointModel"
    reader: RequestReader
    receiver: RequestEncoder
    request: Request
    received: EncodedBatch
    user: str
    """The column of the user's id."""

    @property
    def schema(self) -> Schema:
        return self.receiver.schema

    def encoding(self, name: str, n: int) -> Callable[[], object] | None:
        """The call that encodes a feature, of n candidates if it is a cross; None if it is computed ahead."""
        schema, receiver = self.schema, self.receiver
        if schema.placement(name) in RECORD_PLACEMENTS:
            return None
        if name in schema.histories():
            return lambda: self._read_history(name)
        if name in schema.attributes():
            history, feature = schema.attributes()[name]
            events, rows, _ = receiver.query.gather(receiver.items, *self._read_history(history))
            return lambda: attribute_codes(schema, events[history], feature, rows)
        if name in schema.derived():
            return lambda: self._derive(name, n)
        values = self._given(name, n)
        return lambda: receiver.encoders.encode(name, to_series(name, values, "request"))

    def _read_history(self, name: str) -> tuple[dict[str, list[RequestHistory]], dict[str, Longs]]:
        """A history, encoded, and the positions of its items if anything reads them."""
        past = self.reader.read_history(name, self.request.user, int(self.received.times[0]))
        looked_up = name in self.receiver.query.looked_up
        return {name: [past]}, {name: find_items(self.receiver.items, [past.wanted])} if looked_up else {}

    def _derive(self, name: str, n: int) -> None:
        receiver, received, schema = self.receiver, self.received, self.schema
        if schema.placement(name) == "cross":
            receiver.derive(received, np.arange(n), frozenset([name]))
            return
        sides = OperandRows.alone(schema.operand_placements, "query", received.operands)
        size = np.array([len(received.positions)])
        RowEncoder(receiver.encoders, "query", [name]).derive(sides, receiver.priors, received.times, size)

    def _given(self, name: str, n: int) -> list[Any]:
        """Raw values of a feature's column in the request."""
        column, schema = self.schema.column(name), self.schema
        if schema.placement(name) == "cross":
            described = (self.request.candidates or [])[:n]
            return [c.get(column) if isinstance(c, dict) else None for c in described]
        sides = self.request.user | self.request.context
        history = schema.parallels().get(name)
        if history is not None and schema.histories()[history].lists is None:
            events: Any = sides.get(history) or []
            return [[event.get(column) for event in events]]
        return [sides["id" if column == self.user else column]]

    def time_stage(self, stage: StageSettings, name: str, n: int) -> tuple[float, float]:
        """Microseconds of a feature in a stage that scores n candidates: look-up, first layers."""
        layout, placement = self.model.layout, self.schema.placement(name)
        if not (widths := self.widths(stage, name)):
            return 0.0, 0.0
        rows, tables = self._rows(placement, n), item_parts.read_tables(self.model, stage.name)
        groups, vectors = layout.groups_of(placement, [name]), layout.vectors_of(placement, [name])
        look_up = timed(lambda: embed_rows(rows, groups, vectors, tables)) if groups or vectors else 0.0
        columns = len(layout.columns(placement, [name]))
        x = np.ones((len(rows), columns), dtype=np.float32)
        layers = [np.ones((columns, width), dtype=np.float32) for width in widths]
        return look_up, sum(timed(partial(np.matmul, x, layer)) for layer in layers)

    def widths(self, stage: StageSettings, name: str) -> list[int]:
        """Widths of the first layers that read a feature during a request."""
        layers = stage.first_layers(self.schema)
        return [layer.width for layer in layers if layer.online and name in layer.features]

    def _rows(self, placement: Placement, n: int) -> Rows:
        if placement == "query":
            return self.received.query
        if placement not in RECORD_PLACEMENTS:
            return self.receiver.cross(self.received, np.arange(n))
        records = self.received.items.rows(self.received.positions[:n])
        return split_record(self.schema, records)[RECORD_PLACEMENTS.index(placement)]


def timed(run: Callable[[], object] | None) -> float:
    """Microseconds of one call: the median of `ROUNDS` rounds, 0 without a call."""
    if run is None:
        return 0.0
    run()
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            run()
        rounds.append((time.perf_counter() - began) / CALLS * 1e6)
    return float(np.median(rounds))

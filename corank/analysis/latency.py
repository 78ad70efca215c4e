"""Online latency: microseconds of a feature in one request, and milliseconds of a request by quota.

Both are measured on an exported bundle. The parts of a feature:

encode    raw request values → codes and numbers; crosses and priors are computed, histories are looked up
look up   rows of the embedding tables are gathered and pooled
network   its columns of each stage's first layer, for all candidates that reach the stage
Item features are encoded, and item towers run, ahead of the request: that time is not counted.

Letters: n candidates.

The parts of a funnel that encode a request and look tables up, made of a trained model without graphs on disk.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.ragged import Rows
from corank.core.stored_matrix import StoredMatrix
from corank.core.types import Floats
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.derived_columns import derive_features
from corank.data.packed.history import attribute_codes
from corank.evaluation.predict import Calibrators
from corank.features.encoders import split_record
from corank.features.input_layout import Layout, TableSet, embed_rows
from corank.features.operands import OperandRows
from corank.features.schema import RECORD_PLACEMENTS, Placement, Schema
from corank.models.joint import JointModel
from corank.models.settings.stage import StageSettings
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request, to_series
from corank.serving.funnel.request_encoder import EncodedRequest, RequestEncoder
from corank.serving.funnel.request_history import RequestHistory, find_items
from corank.training.config.config import Config
from corank.training.export import make_manifest


@dataclass(frozen=True)
class ModelTables:
    """The embedding tables and projections of a model."""

    layout: Layout
    tables: dict[str, TableSet]

    @classmethod
    def of(cls, model: JointModel) -> Self:
        """Those of a model on the processor; not copied."""
        table_sets: dict[str, TableSet] = {}
        for name, tables in model.table_sets.items():
            matrices: dict[int | str, Floats] = {
                dim: tables.weights[str(dim)].detach().numpy() for dim in model.layout.table_rows
            }
            matrices |= {
                feature: model.projection(name, feature).detach().numpy()
                for feature in model.layout.projections
            }
            table_sets[name] = matrices
        return cls(model.layout, table_sets)


@dataclass(frozen=True)
class EncodingModel:
    """A model that encodes requests and looks tables up as its bundle does; it cannot rank."""

    manifest: BundleManifest
    request_encoder: RequestEncoder
    scorer: ModelTables

    @property
    def schema(self) -> Schema:
        """The model's features."""
        return self.manifest.declared

    @classmethod
    def of(cls, config: Config, packed: PackedDataset, model: JointModel, calibrators: Calibrators) -> Self:
        """Make one of a trained model, with priors and items at the log's end."""
        model = model.cpu().eval()
        priors = packed.priors.as_of(packed.schema, packed.manifest.last)
        manifest = make_manifest(config, packed, model, calibrators, priors)
        records = ItemRecords.of_packed(packed, priors, *packed.newest_items())
        columns = [stage.ordering(config.data.columns).names for stage in config.stages]
        encoder = RequestEncoder(
            manifest,
            packed.encoders,
            LayeredItems((ItemLayer(records, {}),)),
            priors,
            {name for names in columns for name in names},
            _no_parts,
        )
        return cls(manifest, encoder, ModelTables.of(model))


OnlineModel = Funnel | EncodingModel
"""A model that latencies of features are measured on."""


def _no_parts(rows: Rows) -> dict[str, StoredMatrix]:
    """Logged requests describe no items, whose parts would be needed."""
    return {}


ROUNDS, CALLS = 5, 20
"""A measurement is the median of `ROUNDS` rounds; a round is the mean of `CALLS` calls."""

QUOTA_ROUNDS = 5
"""Rounds of `cpu_ms`."""


@dataclass(frozen=True)
class FeatureLatency:
    """Microseconds of one feature in one request."""

    encode: float
    look_up: float
    network: float

    @property
    def total(self) -> float:
        """Sum of the three parts, in microseconds."""
        return self.encode + self.look_up + self.network

    def plain(self) -> dict[str, float]:
        """The parts and their total by name, for JSON."""
        return asdict(self) | {"total": self.total}


def feature_latencies(
    funnel: OnlineModel, request: Request, stages: Sequence[StageSettings]
) -> dict[str, FeatureLatency]:
    """Latency of every input in one request.

    The first stage scores all candidates; each later stage scores what the stage before it keeps.

    Raises:
        RequestError: if the request does not fit the bundle.
    """
    received = funnel.request_encoder.encode(request)
    met, n = {}, len(received.ids)
    for stage in stages:
        met[stage.name], n = n, min(n, stage.keep)
    readers = {
        name: [stage for stage in stages if _widths(stage, funnel.schema, name)]
        for name in funnel.schema.inputs()
    }
    return {
        name: FeatureLatency(
            # crosses are encoded of the candidates of the first stage that reads them
            timed(_encoding(funnel, name, request, received, met[(read or stages)[0].name])),
            *np.sum([_stage(funnel, s, name, received, met[s.name]) for s in stages], axis=0).tolist(),
        )
        for name, read in readers.items()
    }


def _encoding(
    funnel: OnlineModel, name: str, request: Request, received: EncodedRequest, n: int
) -> Callable[[], object] | None:
    """The call that encodes a feature, of n candidates if it is a cross; None if it is computed ahead."""
    schema, receiver = funnel.schema, funnel.request_encoder
    placement = schema.placement(name)
    if placement in RECORD_PLACEMENTS:
        return None
    if name in schema.histories():
        return lambda: _read_history(receiver, name, request, received.time)
    if name in schema.attributes():
        history, feature = schema.attributes()[name]
        recalled = receiver.query.histories.gather(
            receiver.items, *_read_history(receiver, history, request, received.time)
        )
        return lambda: attribute_codes(schema, recalled.items[history], feature, recalled.rows)
    if name in schema.derived():
        return lambda: _derive(funnel, name, received, np.arange(n))
    values = _given(funnel, name, request, n)
    return lambda: receiver.encoders.encode(name, to_series(name, values, "request"))


def _read_history(
    receiver: RequestEncoder, name: str, request: Request, time: int
) -> tuple[dict[str, RequestHistory], dict[str, NDArray[np.int64]]]:
    """A history, encoded, and the positions of its items if anything reads them."""
    past = receiver.query.histories.encode(name, request.user, receiver.items.text, time)
    if past.wanted is None:
        return {name: past}, {}
    return {name: past}, {name: find_items(receiver.items, [past.wanted])[0]}


def _derive(funnel: OnlineModel, name: str, received: EncodedRequest, alive: NDArray[np.int64]) -> None:
    schema, receiver = funnel.schema, funnel.request_encoder
    query = received.operands
    if schema.placement(name) == "query":
        sides = OperandRows.alone(schema, "query", query)
    else:
        positions, placed = received.positions[alive], schema.row_features("item")
        items = received.items.operands(positions)
        if placed.vectors:
            items = items.with_vectors(placed, received.items.rows(positions))
        sides = OperandRows.pairs(schema, query, items, np.zeros_like(alive), None)
    times = np.full(sides.count, received.time)
    values = derive_features(
        schema,
        schema.placement(name),
        sides,
        receiver.priors,
        times,
        [name],
        sizes=np.full(sides.count, len(received.ids)),
    )
    receiver.encoders.encode_derived(name, values[name])


def _given(funnel: OnlineModel, name: str, request: Request, n: int) -> list[Any]:
    """Raw values of a feature's column in the request."""
    column = funnel.schema.column(name)
    if funnel.schema.placement(name) == "cross":
        described = [c if isinstance(c, dict) else {} for c in (request.candidates or [])[:n]]
        return [c.get(column) for c in described]
    sides = request.user | request.context
    history = funnel.schema.parallels().get(name)
    if history is not None and funnel.schema.histories()[history].lists is None:
        events: Any = sides.get(history) or []
        return [[event.get(column) for event in events]]
    return [sides["id" if column == funnel.manifest.user else column]]


def _stage(
    funnel: OnlineModel, stage: StageSettings, name: str, received: EncodedRequest, n: int
) -> tuple[float, float]:
    """Microseconds of a feature in a stage that scores n candidates: look-up, first layers."""
    placement = funnel.schema.placement(name)
    widths = _widths(stage, funnel.schema, name)
    if not widths:
        return 0.0, 0.0
    tables = funnel.scorer.tables[next(s.tables for s in funnel.manifest.stages if s.name == stage.name)]
    rows = _rows(funnel, placement, received, n)
    layout = funnel.scorer.layout
    groups, vectors = layout.groups_of(placement, [name]), layout.vectors_of(placement, [name])
    columns = len(layout.columns(placement, [name]))
    look_up = timed(lambda: embed_rows(rows, groups, vectors, tables)) if groups or vectors else 0.0
    x = np.ones((len(rows), columns), dtype=np.float32)
    layers = [np.ones((columns, width), dtype=np.float32) for width in widths]
    return look_up, sum(timed(partial(np.matmul, x, layer)) for layer in layers)


def _widths(stage: StageSettings, schema: Schema, name: str) -> list[int]:
    """Widths of the first layers that read a feature during a request."""
    layers = stage.first_layers(schema)
    return [layer.width for layer in layers if layer.online and name in layer.features]


def _rows(funnel: OnlineModel, placement: Placement, received: EncodedRequest, n: int) -> Rows:
    if placement == "query":
        return received.query
    if placement in RECORD_PLACEMENTS:
        records = received.items.rows(received.positions[:n])
        return split_record(funnel.schema, records)[RECORD_PLACEMENTS.index(placement)]
    return funnel.request_encoder.cross(received, np.arange(n))


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


def cpu_ms(
    funnel: Funnel, requests: Sequence[Request], stage: str, quotas: Sequence[int]
) -> NDArray[np.float64]:
    """CPU time of `Funnel.rank` by the quota of one stage: milliseconds a request, (len(quotas),).

    All threads of the process count. The result is the mean over requests of the median of `QUOTA_ROUNDS` rounds.
    A round runs all quotas, so that a slow spell of the machine affects all of them.

    Raises:
        RequestError: if a request does not fit the bundle.
    """
    times = np.empty((QUOTA_ROUNDS, len(requests), len(quotas)))
    for n, request in enumerate(requests):
        variants = [msgspec.structs.replace(request, keep={stage: keep}, trace=False) for keep in quotas]
        funnel.rank(variants[-1])  # the first call of a size also prepares its memory
        for times_of_round in times:
            for m, one in enumerate(variants):
                began = time.process_time_ns()
                funnel.rank(one)
                times_of_round[n, m] = (time.process_time_ns() - began) / 1e6
    milliseconds: NDArray[np.float64] = np.median(times, axis=0).mean(axis=0)
    return milliseconds

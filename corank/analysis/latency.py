"""What a feature costs online: microseconds of a request, measured part by part on an exported bundle.

encode    from what the request says to codes and numbers; crosses and priors are computed, histories looked up
look up   its rows of the embedding tables, gathered and pooled
network   its columns of each stage's first layers, for as many candidates as the stage meets
Of an item's features, encoding and the item tower are paid ahead, once an item, and not here.

Letters: n candidates.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.core.ragged import Rows
from corank.data.derived_columns import derived
from corank.data.packed_history import codes
from corank.features.crosses import Sides
from corank.features.input_layout import embedded
from corank.features.schema import Placement
from corank.models.joint import Stage
from corank.models.mlp import MlpSettings
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request, series
from corank.serving.funnel.request_encoder import EncodedRequest

ROUNDS, CALLS = 5, 20
"""Of each measurement: the median of rounds, each the mean of calls."""


@dataclass(frozen=True)
class Price:
    """Microseconds a request."""

    encode: float
    look_up: float
    network: float

    @property
    def total(self) -> float:
        return self.encode + self.look_up + self.network

    def plain(self) -> dict[str, float]:
        return asdict(self) | {"total": self.total}


def prices(funnel: Funnel, request: Request, stages: Sequence[Stage]) -> dict[str, Price]:
    """Of every feature, for one request: the first stage meets its candidates, each other what the one before keeps.

    Raises RequestError.
    """
    received = funnel.request_encoder.encode(request)
    met, n = {}, len(received.ids)
    for stage in stages:
        met[stage.name], n = n, min(n, stage.keep)
    return {
        name: Price(
            timed(_encoding(funnel, name, request, received, met[stages[-1].name])),
            *np.sum([_stage(funnel, s, name, received, met[s.name]) for s in stages], axis=0).tolist(),
        )
        for name in funnel.schema.features
    }


def _encoding(
    funnel: Funnel, name: str, request: Request, received: EncodedRequest, n: int
) -> Callable[[], object] | None:
    """What encodes a feature of a request, for n candidates if it is a pair's; nothing if it is paid ahead."""
    schema, receiver = funnel.schema, funnel.request_encoder
    placement = schema.placement(name)
    if placement == "item":
        return None
    if name in schema.histories():
        return lambda: receiver.recall.past(name, request.user.get(name), receiver.items, received.time)
    if name in schema.attributes():
        history, feature = schema.attributes()[name]
        past = receiver.recall.past(history, request.user.get(history), receiver.items, received.time)
        recalled = receiver.recall.of(receiver.items, {history: past})
        return lambda: codes(schema, recalled.items[history], feature, recalled.rows)
    if name in schema.derived():
        return lambda: _derive(funnel, name, received, np.arange(n))
    values = _given(funnel, name, request, n)
    return lambda: receiver.encoders.encode(name, series(name, values, "request"))


def _derive(funnel: Funnel, name: str, received: EncodedRequest, alive: NDArray[np.int64]) -> None:
    schema, receiver = funnel.schema, funnel.request_encoder
    query = received.operands
    if schema.placement(name) == "query":
        sides = Sides.alone(schema, "query", query)
    else:
        items = received.items.operands(received.place[alive])
        sides = Sides.pairs(schema, query, items, np.zeros_like(alive), None)
    times = np.full(sides.count, received.time)
    values = derived(schema, schema.placement(name), sides, receiver.priors, times, [name])
    receiver.encoders.derived(name, values[name])


def _given(funnel: Funnel, name: str, request: Request, n: int) -> list[Any]:
    """The values of a column, as they came."""
    column = funnel.schema.column(name)
    if funnel.schema.placement(name) == "cross":
        described = [c if isinstance(c, dict) else {} for c in (request.candidates or [])[:n]]
        return [c.get(column) for c in described]
    sides = request.user | request.context
    return [sides["id" if column == funnel.manifest.user else column]]


def _stage(funnel: Funnel, stage: Stage, name: str, received: EncodedRequest, n: int) -> tuple[float, float]:
    """Microseconds of a stage that meets n candidates: look-up, and its columns of the first layers."""
    placement = funnel.schema.placement(name)
    widths = _widths(stage, name, placement)
    if not widths:
        return 0.0, 0.0
    tables = funnel.scorer.tables[next(s.tables for s in funnel.manifest.stages if s.name == stage.name)]
    rows = _rows(funnel, placement, received, n)
    layout = funnel.scorer.layout
    groups = layout.groups_of(placement, [name])
    columns = len(layout.columns(placement, [name]))
    look_up = timed(lambda: embedded(rows, groups, tables)) if groups else 0.0
    x = np.ones((len(rows), columns), dtype=np.float32)
    layers = [np.ones((columns, width), dtype=np.float32) for width in widths]
    return look_up, sum(timed(partial(np.matmul, x, layer)) for layer in layers)


def _widths(stage: Stage, name: str, placement: Placement) -> list[int]:
    """Of the first layers that read a feature online."""
    if isinstance(stage, MlpSettings):
        return [stage.hidden[0]]
    if placement != "query":
        return []
    if stage.query_towers:
        towers = {n: widths[0] for n, widths in stage.queries().items()}
        return [width for n, width in towers.items() if name in stage.query_towers[n].features]
    return [stage.query[0]] if stage.query_features is None or name in stage.query_features else []


def _rows(funnel: Funnel, placement: Placement, received: EncodedRequest, n: int) -> Rows:
    if placement == "query":
        return received.query
    if placement == "item":
        return received.items.rows(received.place[:n])
    return funnel.request_encoder.cross(received, np.arange(n))


def timed(run: Callable[[], object] | None) -> float:
    """Microseconds of a call: the median of rounds."""
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

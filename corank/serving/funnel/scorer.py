"""What each stage says of a request's candidates: its graphs, run on what the layout gathers.

Letters: n candidates · N items · L events of a history · d last width of the towers.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from corank.bundle.content import read_tables
from corank.bundle.manifest import Attention, BundleManifest, StageFacts
from corank.core.errors import BundleError
from corank.core.ordering import soft_ranks
from corank.core.ragged import Rows
from corank.core.types import Floats, Longs
from corank.features.input_layout import Group, Layout, dense, embedded
from corank.features.schema import Placement
from corank.serving.funnel.request_encoder import EncodedRequest, RequestEncoder

RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    error for error in vars(runtime).values() if isinstance(error, type) and issubclass(error, Exception)
)
"""What the runtime raises; they share no base of their own."""
Seen = dict[str, Floats]
"""What later stages need of earlier ones: of all candidates, NaN of those they never saw, `STAGE.score` and
`STAGE.place`, (n,); the query's dense input by set of tables, `query.TABLES`, (1, ·)."""


class Scorer:
    """The stages of one model version. Safe to share between threads."""

    def __init__(self, folder: Path, manifest: BundleManifest, layout: Layout) -> None:
        """Of a bundle's content. Raises BundleError, DataError."""
        self.folder, self.manifest, self.layout = folder, manifest, layout
        self.tables = read_tables(folder, manifest, layout)
        stages = manifest.stages
        self.towers = {stage.name: stage for stage in stages if stage.model == "towers"}
        graphs = [f"{name}.{side}" for name in self.towers for side in ("query", "item")]
        graphs += [stage.name for stage in stages if stage.model == "mlp"]
        self._graphs = {name: _session(folder / f"{name}.onnx") for name in graphs}
        self._events = {s.name: self._event_groups(s.attended) for s in stages if s.attended}
        self._taken = {f"{stage}.{what}" for s in stages for stage, what in s.from_stages}

    def _event_groups(self, attention: Attention) -> tuple[Group, ...]:
        return self.layout.groups_of("item", attention.features)

    def vectors(self, rows: Rows) -> dict[str, Floats]:
        """What each towers stage makes of N items: (N, d)."""
        return {
            name: self._graphs[f"{name}.item"].run(None, {"item": self._dense(stage, "item", rows)})[0]
            for name, stage in self.towers.items()
        }

    def logits(
        self,
        stage: StageFacts,
        receiver: RequestEncoder,
        received: EncodedRequest,
        alive: Longs,
        seen: Seen,
        options: onnxruntime.RunOptions | None = None,
    ) -> dict[str, Floats]:
        """A stage's logits of some candidates, by label; what later stages take of them goes into `seen`."""
        if stage.model == "towers":
            logits = self._dot(stage, received, alive, seen)[:, None]
        else:
            inputs = self._inputs(stage, receiver, received, alive, seen)
            (logits,) = self._graphs[stage.name].run(None, inputs, options)
        found = {label: logits[:, n] for n, label in enumerate(stage.labels)}
        if f"{stage.name}.score" in self._taken:
            seen[f"{stage.name}.score"] = np.full(len(received.ids), np.nan, dtype=np.float32)
            seen[f"{stage.name}.score"][alive] = found[stage.main]
        if f"{stage.name}.place" in self._taken:  # of the first stage, which sees everyone
            start = np.array([0, len(alive)])
            seen[f"{stage.name}.place"] = soft_ranks(found[stage.main], start)
        return found

    def query(self, stage: StageFacts, row: Rows, seen: Seen | None = None) -> Floats:
        """The query's vector of a towers stage: (d,)."""
        given = {"query": self._query(stage, row, {} if seen is None else seen)}
        vector: Floats = self._graphs[f"{stage.name}.query"].run(None, given)[0][0]
        return vector

    def _query(self, stage: StageFacts, row: Rows, seen: Seen) -> Floats:
        """Its dense input, computed once for the stages that share tables."""
        name = f"query.{stage.tables}"
        if name not in seen:
            seen[name] = self._dense(stage, "query", row)
        return seen[name]

    def _dot(self, stage: StageFacts, received: EncodedRequest, alive: Longs, seen: Seen) -> Floats:
        assert stage.scale is not None and stage.bias is not None
        place = received.place if len(alive) == len(received.place) else received.place[alive]
        dot: Floats = received.items.vectors(stage.name, place) @ self.query(stage, received.query, seen)
        return np.float32(stage.scale) * dot + np.float32(stage.bias)

    def _inputs(
        self, stage: StageFacts, receiver: RequestEncoder, received: EncodedRequest, alive: Longs, seen: Seen
    ) -> dict[str, Floats]:
        inputs = {
            "query": self._query(stage, received.query, seen),
            "item": self._dense(stage, "item", received.items.rows(received.place[alive])),
        }
        if self.layout.width("cross"):
            inputs["cross"] = self._dense(stage, "cross", receiver.cross(received, alive))
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

    def _dense(self, stage: StageFacts, placement: Placement, rows: Rows) -> Floats:
        return dense(rows, self.layout.groups[placement], self.tables[stage.tables])


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # one thread a session: a request is small, and workers take the cores
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise BundleError(
            f"{path}: no graph that the runtime reads ({error}); export the bundle again"
        ) from None

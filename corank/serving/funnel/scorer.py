"""The scorers of all stages of a bundle, and what stages see of one another.

Letters: n candidates · N items · d width of an item part.
"""

import math
from pathlib import Path

import numpy as np

from corank.bundle.content import read_tables
from corank.bundle.item_parts import ItemGraphs, store_parts
from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import StageFacts
from corank.core.calibration import Platt
from corank.core.errors import BundleError, PluginError, RequestError
from corank.core.matrices.stored_matrix import StoredMatrix
from corank.core.ordering import soft_ranks, stage_value
from corank.core.ragged import Rows
from corank.core.registry import plugin_hint
from corank.core.types import Floats, Numbers
from corank.features.input_layout import Layout
from corank.serving.funnel.scorers.vectors_scorer import QueryVectors
from corank.serving.funnel.stage_scorer import SCORERS, Candidates, ScorerInputs, Shared, StageScorer


class Scorer:
    """The stages of one model version. Safe to share between threads."""

    def __init__(self, folder: Path, manifest: BundleManifest, layout: Layout) -> None:
        """Open the graphs and tables of a bundle's content. Raises BundleError, DataError."""
        self.folder, self.layout = folder, layout
        self.tables = read_tables(folder, manifest, layout)
        self.stages: dict[str, StageScorer] = {}
        self._manifest, self._columns = manifest, manifest.data.columns
        self._inputs: dict[str, ScorerInputs] = {}
        self._queries: dict[str, QueryVectors] = {}
        for stage in manifest.stages:
            inputs = ScorerInputs(stage, folder, layout, self.tables[stage.tables], self._columns)
            try:
                self.stages[stage.name] = SCORERS.find(stage.scorer)(inputs)
            except PluginError as error:
                hint = plugin_hint(manifest.plugins) or "export the bundle again"
                raise BundleError(f"{folder}: stage '{stage.name}': {error}; {hint}") from None
            self._inputs[stage.name] = inputs
            if stage.orders_by_product:
                self._queries[stage.name] = QueryVectors(inputs)
        self._items = ItemGraphs(folder, manifest.stages, layout, self.tables, threads=1)
        self.calibrators = {
            stage.name: {label: Platt(c.slope, c.intercept) for label, c in stage.calibrators.items()}
            for stage in manifest.stages
        }
        self._seen = {f"{name}.{what}" for stage in manifest.stages for name, what in stage.from_stages}

    def parts(self, rows: Rows) -> dict[str, StoredMatrix]:
        """What stages keep of the records of items: (N, d) by `STAGE.PART`. Raises DataError."""
        return store_parts(self._items.compute(rows), self._manifest.stages)

    def query_vector(self, stage: str, row: Rows, shared: Shared) -> Floats:
        """The vector of a query, of a stage that orders by product: (d,)."""
        return self._queries[stage].vector(row, shared)

    @property
    def named(self) -> set[str]:
        """The labels and columns that the values of stages name."""
        return {name for inputs in self._inputs.values() for name in inputs.value.names}

    def evaluate(self, stage: StageFacts, candidates: Candidates) -> tuple[dict[str, Floats], Numbers]:
        """Score candidates; what later stages see of it goes into what the stages share.

        Returns:
            The logits by label, (n,) each, and the values that the stage orders by: (n,).
        """
        scores, value = self.stages[stage.name].evaluate(candidates)
        logits = {label: scores[:, n] for n, label in enumerate(stage.labels)}
        if value is None:
            formula = self._inputs[stage.name].value
            columns = {
                name: candidates.request.column(name, candidates.alive)
                for name in formula.names
                if name in self._columns
            }
            value = stage_value(formula, logits, self.calibrators[stage.name], columns)
        if self._seen:
            self._share(stage, logits[stage.main], candidates)
        return logits, value

    def _share(self, stage: StageFacts, logits: Floats, candidates: Candidates) -> None:
        """Keep what later stages see of a stage."""
        shared, alive = candidates.shared, candidates.alive
        if f"{stage.name}.score" in self._seen:
            shared[f"{stage.name}.score"] = np.full(len(candidates.request.ids), np.nan, dtype=np.float32)
            shared[f"{stage.name}.score"][alive] = logits
        if f"{stage.name}.rank" in self._seen:  # of the first stage, which scores all candidates
            shared[f"{stage.name}.rank"] = soft_ranks(logits, np.array([0, len(alive)]))


def refuse_odd(stage: StageFacts, value: Numbers, candidates: Candidates) -> Numbers:
    """The values by which a stage orders. Raises RequestError if one is not finite."""
    # a sum of squares is faster than a plain sum; as it may overflow, each value is checked then
    if math.isfinite(np.dot(value, value)):
        return value
    odd = np.flatnonzero(~np.isfinite(value))
    if len(odd):
        raise RequestError(
            f"stage '{stage.name}': the value of {candidates.request.ids[candidates.alive[odd[0]]]!r} is "
            f"{value[odd[0]]}; look for extreme numbers in the request"
        )
    return value

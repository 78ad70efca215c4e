"""The scorers of all stages of a bundle, and what stages see of one another.

Letters: n candidates · N items · d width of the vectors.
"""

from pathlib import Path

import numpy as np

from corank.bundle.content import read_tables
from corank.bundle.item_vectors import encode_vectors
from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import StageFacts
from corank.core.errors import BundleError, PluginError
from corank.core.matrices.stored_matrix import StoredMatrix
from corank.core.ordering import soft_ranks
from corank.core.ragged import Rows
from corank.core.registry import plugin_hint
from corank.core.types import Floats
from corank.features.input_layout import Layout
from corank.serving.funnel.stage_scorer import SCORERS, Candidates, ScorerInputs, StageScorer
from corank.serving.funnel.vectors_scorer import VectorsScorer


class Scorer:
    """The stages of one model version. Safe to share between threads."""

    def __init__(self, folder: Path, manifest: BundleManifest, layout: Layout) -> None:
        """Open the graphs and tables of a bundle's content. Raises BundleError, DataError."""
        self.folder, self.layout = folder, layout
        self.tables = read_tables(folder, manifest, layout)
        self._precisions = manifest.vector_precisions
        self.stages: dict[str, StageScorer] = {}
        self.vector_stages: dict[str, VectorsScorer] = {}
        """The stages that have item vectors."""
        for stage in manifest.stages:
            inputs = ScorerInputs(stage, folder, layout, self.tables[stage.tables])
            try:
                scorer = SCORERS.find(stage.scorer)(inputs)
            except PluginError as error:
                hint = plugin_hint(manifest.plugins) or "export the bundle again"
                raise BundleError(f"{folder}: stage '{stage.name}': {error}; {hint}") from None
            self.stages[stage.name] = scorer
            if isinstance(scorer, VectorsScorer):
                self.vector_stages[stage.name] = scorer
            elif stage.vector_width is not None:
                raise BundleError(
                    f"{folder}: stage '{stage.name}' has item vectors, so its scorer '{stage.scorer}' must be a "
                    "subclass of VectorsScorer"
                )
        self._seen = {f"{name}.{what}" for stage in manifest.stages for name, what in stage.from_stages}

    def vectors(self, rows: Rows) -> dict[str, StoredMatrix]:
        """The vectors of items, by stage that has such, as the bundle stores them: (N, d). Raises DataError."""
        vectors = {name: scorer.item_vectors(rows) for name, scorer in self.vector_stages.items()}
        return encode_vectors(vectors, self._precisions)

    def logits(self, stage: StageFacts, candidates: Candidates) -> dict[str, Floats]:
        """A stage's logits by label: (n,). What later stages see of them goes into what the stages share."""
        scores = self.stages[stage.name].score(candidates)
        logits = {label: scores[:, n] for n, label in enumerate(stage.labels)}
        shared, alive = candidates.shared, candidates.alive
        if f"{stage.name}.score" in self._seen:
            shared[f"{stage.name}.score"] = np.full(len(candidates.request.ids), np.nan, dtype=np.float32)
            shared[f"{stage.name}.score"][alive] = logits[stage.main]
        if f"{stage.name}.rank" in self._seen:  # of the first stage, which scores all candidates
            shared[f"{stage.name}.rank"] = soft_ranks(logits[stage.main], np.array([0, len(alive)]))
        return logits

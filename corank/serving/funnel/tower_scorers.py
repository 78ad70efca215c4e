"""Scorers `folded_mlp` and `max_heads`: item vectors that meet the query in more than a dot product.

Letters: n candidates · d width of the vectors · h hidden units · H heads of p numbers each.
"""

import numpy as np

from corank.core.errors import BundleError
from corank.core.types import Floats
from corank.serving.funnel.stage_scorer import SCORERS, ScorerInputs
from corank.serving.funnel.vectors_scorer import VectorsScorer


@SCORERS.register("folded_mlp")
class FoldedMlpScorer(VectorsScorer):
    """Of stage model `towers_mlp`: one matrix a request, whose rows are hidden units and, last, the product.

    The graph of queries gives it: (h + 1, d + 2), a row's weights of v, its shift, and its weight in the logit.
    """

    needed = ("hidden",)

    @property
    def query_shape(self) -> tuple[int, int]:
        """(h + 1, d + 2)."""
        return self.count("hidden") + 1, self.width + 2

    def meet(self, query: Floats, vectors: Floats) -> Floats:
        """As `VectorsScorer.meet`."""
        units: Floats = vectors @ query[:, :-2].T
        units += query[:, -2]
        np.maximum(units[:, :-1], 0, out=units[:, :-1])
        logits: Floats = units @ query[:, -1]
        return logits


@SCORERS.register("max_heads")
class MaxHeadsScorer(VectorsScorer):
    """Of stage model `towers_heads`: the sum over query heads of their best item head, and biases.

    The graph of queries gives the scaled vector and the last bias: (1, d + 1).
    """

    needed = ("head", "in_heads")

    def __init__(self, inputs: ScorerInputs) -> None:
        super().__init__(inputs)
        self._head, self._within = self.count("head"), self.count("in_heads")
        if self._within > self.width or self._within % self._head:
            raise BundleError(
                f"{inputs.folder}: stage '{self.name}': {self._within} numbers of {self.width} are no whole heads of "
                f"{self._head}; export the bundle again"
            )

    @property
    def query_shape(self) -> tuple[int, int]:
        """(1, d + 1)."""
        return 1, self.width + 1

    def meet(self, query: Floats, vectors: Floats) -> Floats:
        """As `VectorsScorer.meet`."""
        within, scaled = self._within, query[0]
        heads = vectors[:, :within].reshape(-1, self._head) @ scaled[:within].reshape(-1, self._head).T
        count = within // self._head
        logits: Floats = heads.reshape(-1, count, count).max(axis=1).sum(axis=1)
        logits += vectors[:, within:] @ scaled[within:-1] + scaled[-1]
        return logits

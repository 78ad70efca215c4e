"""Which candidates each network scores in a training step: those of which a loss reads its output, less easy ones.

Letters: R requests · C candidates · N candidates that may be skipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.batches.candidate_subset import CandidateSubset
from corank.batches.draws import draw
from corank.batches.sampling import Population
from corank.models.settings.skip_easy import SkipEasy
from corank.models.stage_io import StageOutput

FIRST_DRAW = 1 << 20
"""Draws of a request before that are left to losses."""


@dataclass(frozen=True)
class EasyCandidates:
    """Who skips easy candidates, and which may be skipped."""

    settings: SkipEasy
    label: str
    """The label of the stage `by` whose logits tell."""
    networks: frozenset[str]
    """Those that skip."""
    population: Population
    """The candidates that may be skipped."""

    def weights(self, z: Tensor, batch: Batch) -> Tensor:
        """Weigh the candidates by logits: 0 for a skipped one, 1 / `sample` for a drawn one, 1 for others: (C,)."""
        index = torch.nonzero(batch.in_population(self.population)).squeeze(1)
        request, start = batch.request_of.index_select(0, index).long(), batch.requests.start
        assert start is not None
        hard = _first(z.detach().index_select(0, index), request, len(batch.draws), self.settings.keep)
        number = (index - start[request] + FIRST_DRAW).cpu().numpy()
        hashes = draw(batch.draws[request].cpu().numpy().view(np.uint64), number)
        drawn = torch.from_numpy((hashes >> np.uint64(11)) * 2.0**-53 < self.settings.sample)
        weight = torch.where(hard, 1.0, drawn.to(z.device) / self.settings.sample)
        return torch.ones_like(batch.weight).index_copy(0, index, weight.to(batch.weight.dtype))


def _first(z: Tensor, request: Tensor, requests: int, share: float) -> Tensor:
    """Mark the ⌈share · n⌉ highest of each request's n values, the earlier of equal ones: (N,) → (N,) bool."""
    size = torch.bincount(request, minlength=requests)
    start, most = size.cumsum(0) - size, int(size.max()) if len(z) else 0
    cell = request * most + torch.arange(len(z), device=z.device) - start[request]
    # a row a request: many short sorts are faster than a long one
    rows = z.new_full((requests * most,), -torch.inf).index_copy(0, cell, z).view(requests, most)
    order = rows.sort(dim=1, descending=True, stable=True).indices
    wanted = (size * share).ceil().unsqueeze(1) > torch.arange(most, device=z.device)
    return torch.zeros_like(wanted).scatter(1, order, wanted).view(-1).index_select(0, cell)


@dataclass(frozen=True)
class Scoring:
    """Which candidates networks score."""

    populations: Mapping[str, Population] = field(default_factory=dict)
    """Network → the candidates of which its output is read; one that is not named scores the whole batch."""
    easy: EasyCandidates | None = None

    def with_easy(self, names: Sequence[str]) -> list[str]:
        """Some networks, and the stage that tells them what is easy."""
        skip = self.easy is not None and not self.easy.networks.isdisjoint(names)
        return [*names, self.easy.settings.by] if skip and self.easy is not None else list(names)


SCORE_ALL = Scoring()
"""Every network scores all candidates, as in evaluation."""


class BatchScoring:
    """Which candidates of a batch networks score. They are asked for in the order of the cascade."""

    def __init__(self, scoring: Scoring, batch: Batch) -> None:
        self._scoring, self._batch = scoring, batch
        self._weights: Tensor | None = None
        self._subsets: dict[tuple[frozenset[tuple[int, int | None]], bool], CandidateSubset] = {}

    def weights(self, name: str, outputs: Mapping[str, StageOutput]) -> Tensor | None:
        """How much each candidate counts in what learns from a network, (C,); None: 1.

        Args:
            name: of a stage or teacher.
            outputs: those of the stages before it.
        """
        easy = self._scoring.easy
        if easy is None or name not in easy.networks:
            return None
        if self._weights is None:
            self._weights = easy.weights(outputs[easy.settings.by].logits[easy.label], self._batch)
        return self._weights

    def subset(self, name: str, weights: Tensor | None) -> CandidateSubset | None:
        """The candidates that a network scores, given their `weights`; None for all."""
        population = self._scoring.populations.get(name)
        if population is None and weights is None:
            return None
        key = (frozenset((population or {}).items()), weights is not None)
        if key not in self._subsets:
            chosen = torch.ones_like(self._batch.level, dtype=torch.bool)
            if population is not None:
                chosen &= self._batch.in_population(population)
            if weights is not None:
                chosen &= weights > 0
            self._subsets[key] = CandidateSubset.of(self._batch, chosen)
        return self._subsets[key]

"""How many candidates of a split there are to learn from: by level, and by what is known of each label.

Letters: R requests · C candidates · N levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from corank.batches.sampling import SOURCES, Population
from corank.data.dataset import PackedDataset
from corank.data.shard import Shard


class LabelCounts(NamedTuple):
    """Exposed candidates by what is known of a label."""

    positives: int = 0
    negatives: int = 0
    null: int = 0
    """Unknown; of packed data, whatever the reason."""
    excluded: int = 0
    """The label that it is given did not happen."""
    immature: int = 0
    """Too young when the log was read."""

    @property
    def known(self) -> int:
        """Candidates that a loss of the label can learn from."""
        return self.positives + self.negatives

    @property
    def exposed(self) -> int:
        """All of them."""
        return sum(self)


class MixedCounts(NamedTuple):
    """Requests whose exposed candidates have both a 1 and a 0 of a label: those in which it orders."""

    requests: int = 0
    positives: int = 0
    """Candidates of these requests with a 1."""
    negatives: int = 0
    """Candidates of these requests with a 0."""


@dataclass(frozen=True)
class SplitCounts:
    """What a split holds, as far as losses learn from it."""

    requests: int
    sizes: Sequence[Mapping[int, int]]
    """For each level, shallow to deep: how many requests have how many of its candidates."""
    labels: Mapping[str, LabelCounts]
    mixed: Mapping[str, MixedCounts]
    scores: Mapping[str, Sequence[int]]
    """By logged score, the candidates of each level that have it."""

    @classmethod
    def of(cls, packed: PackedDataset, split: str) -> Self:
        """Count a split of packed data."""
        shards, data = packed.splits[split], packed.data
        levels = range(len(data.levels))
        sizes: list[dict[int, int]] = [{} for _ in levels]
        for shard in shards:
            per_request = _by_request(shard, len(data.levels))
            for level in levels:
                for size, requests in zip(*np.unique(per_request[:, level], return_counts=True), strict=True):
                    sizes[level][int(size)] = sizes[level].get(int(size), 0) + int(requests)
        labels = {name: _count_label(shards, name, levels[-1]) for name in data.labels}
        scores = {name: [_count_score(shards, name, level) for level in levels] for name in data.scores}
        mixed = {name: _count_mixed(shards, name) for name in data.labels}
        return cls(sum(map(len, shards)), sizes, labels, mixed, scores)

    def rows(self, population: Population) -> int:
        """Count the candidates that a population reads, at most, an epoch: draws beyond the log may repeat."""
        total = 0
        for code, most in population.items():
            if code in SOURCES.values():
                total += self.requests * (most or 0)
            else:
                total += sum(
                    requests * (size if most is None else min(size, most))
                    for size, requests in self.sizes[code].items()
                )
        return total

    @property
    def levels(self) -> list[int]:
        """Candidates of each level, shallow to deep."""
        return [self.rows({level: None}) for level in range(len(self.sizes))]


class Targets(NamedTuple):
    """The rows from which a loss learns in a split, an epoch."""

    rows: int
    positives: int
    """Rows whose score it raises."""
    negatives: int
    """Rows whose score it lowers."""


def _by_request(shard: Shard, levels: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Count the candidates of each request and level: (R, N)."""
    request = np.repeat(np.arange(len(shard)), np.diff(shard.request_start))
    return np.bincount(request * levels + shard.level, minlength=len(shard) * levels).reshape(-1, levels)


def _count_label(shards: Sequence[Shard], name: str, exposed: int) -> LabelCounts:
    counts = LabelCounts()
    for shard in shards:
        label = shard.labels[name]
        positives, negatives = (int(np.count_nonzero(label == value)) for value in (1, 0))
        shown = int(np.count_nonzero(shard.level == exposed))
        shard_counts = (positives, negatives, shown - positives - negatives, 0, 0)
        counts = LabelCounts(*(a + b for a, b in zip(counts, shard_counts, strict=True)))
    return counts


def _count_mixed(shards: Sequence[Shard], name: str) -> MixedCounts:
    counts = MixedCounts()
    for shard in shards:
        request = np.repeat(np.arange(len(shard)), np.diff(shard.request_start))
        ones, zeros = (np.bincount(request[shard.labels[name] == y], minlength=len(shard)) for y in (1, 0))
        both = (ones > 0) & (zeros > 0)
        shard_counts = (int(both.sum()), int(ones[both].sum()), int(zeros[both].sum()))
        counts = MixedCounts(*(a + b for a, b in zip(counts, shard_counts, strict=True)))
    return counts


def _count_score(shards: Sequence[Shard], name: str, level: int) -> int:
    return sum(int(np.count_nonzero(~np.isnan(s.scores[name]) & (s.level == level))) for s in shards)

"""Loss `in_batch`: a clicked item must lead the other items of the batch, so that the vectors serve retrieval.

Letters: R requests · C candidates, of this rank · I item rows of this rank · J distinct items of all ranks ·
P clicked candidates · d width of the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import PositiveFloat

from corank.batches.sampling import FIRST_CODE, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.core.lazy import autograd_function, lazy
from corank.losses.base import LOSSES, FunnelSpec, StageLoss
from corank.losses.padded import FAR

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.distributed.ranks import Ranks
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("in_batch")
class InBatchLoss(StageLoss):
    """Sampled softmax over the batch's items, corrected for how often an item is sampled.

    L = mean over clicked (r, i) of −log softmax of z_ri − log p_i among i and the items that r did not click, with
    z_rj = exp(s)·⟨q_r, v_j⟩ / temperature and s the learnt scale of the towers.

    p_j = 1 − (1 − share_j)^C is the probability that item j is in a batch at all: items of a batch are distinct,
    so one that is drawn twice counts once. share_j is the item's share of the log's candidates (`Batch.share`), C
    the number of the batch's candidates from the log; draws beyond the log are left out. Shares are of the log,
    since a batch of a large catalogue holds nearly every item once. A batch is that of all ranks.

    Source: the correction of Yi et al., RecSys 2019 (doi 10.1145/3298689.3346996), where q is the p here.
    """

    kind: Literal["in_batch"] = "in_batch"
    temperature: PositiveFloat = 1.0
    """Divides the logits."""

    def check(self, funnel: FunnelSpec, key: str) -> None:
        super().check(funnel, key)
        if self.stage not in funnel.with_vectors:
            such_as = (
                funnel.with_vectors[0] if funnel.with_vectors else "one of model: towers without matches"
            )
            raise ConfigError(
                f"{key}.stage: '{self.stage}' has no vectors of queries and items whose product alone orders them; "
                f"name a stage that has, such as {such_as}"
            )

    def needed_labels(self) -> Sequence[str]:
        return [self.label]

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        clicked = counts.labels[self.label].positives
        return Targets(clicked, clicked, clicked)  # each leads items of other requests

    def untrained_value(self, counts: SplitCounts, funnel: FunnelSpec, requests: int) -> float | None:
        """ln of the batch's items: all score alike. At most as many as the batch has exposed candidates."""
        items = requests * counts.levels[-1] / max(counts.requests, 1)
        return math.log(items) if items > 1 else None

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        clicks, vectors = self._clicks(batch), outputs[self.stage].vectors
        assert vectors is not None  # `check` has made sure
        items = BatchItems.of(batch, vectors.items()[: len(batch.share)])
        item = items.item[clicks.item_of]

        query = vectors.scale / self.temperature * vectors.query.float()[clicks.request]
        shift = (vectors.bias / self.temperature - items.log_p).masked_fill(items.hidden, -FAR)
        z = torch.addmm(shift, query, items.vectors.t())  # (requests with a click, J)
        others = z.index_put_((clicks.row, item), z.new_full((), -FAR)).logsumexp(1)
        own = outputs[self.stage].logits[self.label][clicks.candidate] / self.temperature - items.log_p[item]
        return torch.nn.functional.softplus(others[clicks.row] - own), self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        return batch.weight[self._clicks(batch).candidate]

    def prepare(self, batch: Batch, funnel: FunnelSpec) -> None:
        self._clicks(batch)
        if batch.ranks.alone:
            _own_items(batch)

    def _clicks(self, batch: Batch) -> Clicks:
        return batch.once(("clicks", self.label), lambda: Clicks.of(batch, self.label))


class Clicks(NamedTuple):
    """The clicked candidates of a batch."""

    candidate: Tensor  # (P,)
    item_of: Tensor
    """The item row of each: (P,) int64."""
    request: Tensor
    """The requests that have some."""
    row: Tensor
    """Which of these requests each is of: (P,)."""

    @classmethod
    def of(cls, batch: Batch, label: str) -> Self:
        """Find the candidates whose label is 1."""
        candidate = torch.nonzero(batch.label_weight(label) * (batch.labels[label] > 0)).squeeze(1)
        request, row = batch.request_of[candidate].unique_consecutive(return_inverse=True)
        return cls(candidate, batch.item_of[candidate].long(), request, row)


class OwnItems(NamedTuple):
    """The items of this rank's part of a batch."""

    first: Tensor
    """The first row of the item of each item row: (I,)."""
    logged: Tensor
    """Of which rows the log has candidates: (I,) bool."""
    candidates: Tensor
    """How many candidates are of the log: ()."""

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Find them."""
        first = torch.searchsorted(batch.ordinal, batch.ordinal)
        log = batch.level < FIRST_CODE
        rows = first[batch.item_of[log].long()]
        return cls(first, torch.zeros_like(first, dtype=torch.bool).index_fill(0, rows, 1), log.sum())


def _own_items(batch: Batch) -> OwnItems:
    return batch.once("items", lambda: OwnItems.of(batch))


@dataclass(frozen=True)
class BatchItems:
    """The items of a batch. Rows of one item, as it was at several times, are one item: the first stands for all, at
    its earliest request in the batch, so that no row shows what happened after a request that clicked it."""

    vectors: Tensor
    """(J, d) fp32. Alone there is one of every item row, and those that another stands for are hidden."""
    log_p: Tensor
    """log of the probability that an item is in a batch at all: (J,)."""
    hidden: Tensor
    """Whether no candidate of the log is of the item, or another row stands for it: (J,) bool."""
    item: Tensor
    """The item of each item row of this rank: (I,) int64."""

    @classmethod
    def of(cls, batch: Batch, vectors: Tensor) -> Self:
        """Find the items of a batch. A collective.

        Args:
            batch: this rank's part.
            vectors: of its item rows: (I, d). Those that other ranks take get their gradients from there.
        """
        first, logged, candidates = _own_items(batch)
        if batch.ranks.alone:
            return cls(vectors.float(), log_inclusion(candidates, batch.share), ~logged, first)
        return cls._of_ranks(batch, vectors, first, logged, candidates)

    @classmethod
    def _of_ranks(cls, batch: Batch, vectors: Tensor, first: Tensor, logged: Tensor, count: Tensor) -> Self:
        distinct = torch.nonzero(first == torch.arange(len(first), device=first.device)).squeeze(1)
        when = torch.zeros_like(batch.ordinal) if batch.earliest_time is None else batch.earliest_time
        columns = torch.stack(
            [c[distinct].double() for c in (batch.ordinal, batch.item_row, when, logged, batch.share)], 1
        )
        header = columns.new_zeros(1, columns.shape[1])
        header[0, 0] = count
        parts = batch.ranks.gather(torch.cat((header, columns)), "items of the batch")
        candidates = torch.stack([part[0, 0] for part in parts]).sum()
        ordinal, row, time, in_log, share = torch.cat([part[1:] for part in parts]).unbind(1)
        rank = torch.cat([torch.full((len(part) - 1,), n) for n, part in enumerate(parts)]).to(ordinal.device)

        # by item, then row, then time, then rank: the first of each item stands for all
        order = torch.argsort(time, stable=True)
        order = order[torch.argsort(row[order], stable=True)]
        order = order[torch.argsort(ordinal[order], stable=True)]
        items, of_row = ordinal[order].unique_consecutive(return_inverse=True)
        chosen = order[torch.searchsorted(of_row, torch.arange(len(items), device=order.device))]
        by_rank = torch.argsort(rank[chosen], stable=True)
        position = torch.empty_like(by_rank)
        position[by_rank] = torch.arange(len(items), device=order.device)
        is_logged = torch.zeros_like(items).index_add_(0, position[of_row], in_log[order]) > 0
        chosen = chosen[by_rank]

        counts = torch.bincount(rank[chosen], minlength=batch.ranks.world).tolist()
        begin = sum(len(part) - 1 for part in parts[: batch.ranks.rank])
        own = chosen[rank[chosen] == batch.ranks.rank] - begin
        gathered = _gather_vectors(vectors.float()[distinct[own]], counts, batch.ranks)
        log_p = log_inclusion(candidates, share[chosen]).to(batch.share.dtype)
        return cls(gathered, log_p, ~is_logged, position[torch.searchsorted(items, batch.ordinal.double())])


def log_inclusion(candidates: Tensor, share: Tensor) -> Tensor:
    """log(1 − (1 − share)^candidates): the items of a batch are distinct, so one that is drawn twice counts once."""
    return torch.log(-torch.expm1(candidates * torch.log1p(-share)))


class _GatherVectors:
    """The vectors of all ranks; their gradients, summed over the ranks, go back to where they come from."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: Sequence[int], ranks: Ranks) -> Tensor:
        ctx.counts, ctx.ranks = counts, ranks
        return torch.cat(ranks.gather(own, "vectors of the batch's items", counts))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ranks, own = ctx.ranks, ctx.counts[ctx.ranks.rank]
        received = [own] * ranks.world
        what = "gradients of the batch's items"
        arrived = ranks.exchange(gradient, ctx.counts, received, what)
        return arrived.view(ranks.world, own, gradient.shape[1]).sum(0), None, None


_gather_vectors: Callable[..., Tensor] = autograd_function(_GatherVectors)

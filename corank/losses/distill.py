"""Loss `distill`: a student learns the detached scores of a teacher, another stage or what production logged.

Letters: R requests · C candidates · n the longest list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from annotated_types import Ge
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec, Loss
from corank.losses.padded import PaddedLists, falling_order

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")
draws = lazy("corank.batches.draws")


class TaughtLoss(Loss):
    """A loss by which one stage learns what others think of candidates that mostly have no label of their own."""

    student: str
    """The stage to train."""
    label: str = "click"
    """Which logits of all of them."""
    on: list[str] = Field(min_length=1)
    """Levels of the log, or `batch` or `catalogue` for items beyond it."""
    per_request: PositiveInt | None = None
    """Candidates drawn of each level and request; all of a level unless given."""
    warm_up: NonNegativeInt = 0
    """Optimiser steps over which the weight grows from 0, since an untrained teacher's scores are noise."""

    @property
    def name(self) -> str:
        return f"{self.student}.{self.kind}"

    @property
    def learner(self) -> str:
        return self.student

    @property
    def warm_up_steps(self) -> int:
        return self.warm_up

    def soft_targets(self, funnel: FunnelSpec) -> set[int]:
        return set(self.population(funnel))

    def reads(self, funnel: FunnelSpec) -> list[str]:
        return [self.student, *(name for name in self.teachers if name not in funnel.scores)]

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_label(self.student, self.label, f"{key}.student")
        funnel.check_sources(self.on, self.per_request, key, "on")
        funnel.check_teaching(self.teachers, self.on, key)

    def population(self, funnel: FunnelSpec) -> Population:
        return {funnel.source_code(level, "on"): self.per_request for level in self.on}

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        """Rows of the population, at most as many as there are logged scores of each teacher that is one."""
        rows = counts.rows(self.population(funnel))
        for scored in (counts.scores[name] for name in self.teachers if name in counts.scores):
            rows = min(rows, sum(scored[level] for level in self.population(funnel)))
        return Targets(rows, rows, rows)


@LOSSES.register("distill")
class DistillLoss(TaughtLoss):
    """Knowledge distillation over candidates of the levels `on`, or drawn beyond the log.

    z_s and z_t are the logits of student and teacher over the temperature, the teacher's detached.

    `pointwise`: L = mean of BCE(z_s, σ(z_t)). Source: Hinton et al., arXiv 1503.02531, for a binary label.

    `listwise`: L = KL(softmax z_t ‖ softmax z_s) of each request's list. Source: Cao et al., ListNet, ICML 2007.

    `pairwise`: the teacher's order of a request is cut into `chunks`, and a candidate drawn of each, again in each
    epoch; L = Σ w_ab softplus(z_s[b] − z_s[a]) / Σ w_ab over the drawn, a of an earlier chunk than b. w_ab is what
    DCG loses if the two swap ranks; the gain falls by 1 a chunk. Source of the idea: COPR, arXiv 2306.03516.

    A teacher has not learnt from candidates that were never exposed: choose `on` with care. It scores a drawn candidate
    as it would a logged one, and no candidate that no loss reads of it. A number that the log holds of pairs is missing
    there, and read as its mean; a teacher that reads other such features, or logged scores, is refused.
    """

    kind: Literal["distill"] = "distill"
    teacher: str
    """A stage, one of `teachers` or `tree_teachers`, or a logged score of `data.scores`."""
    form: Literal["pointwise", "listwise", "pairwise"] = "pointwise"
    """What of the teacher is a target: its probability, its softmax over a request, or its order."""
    chunks: Annotated[int, Ge(2)] = 20
    """Chunks of the teacher's order in `pairwise`."""
    temperature: PositiveFloat = 1.0
    """Divides the logits of both."""

    @model_validator(mode="after")
    def _check_two_stages(self) -> Self:
        if self.teacher == self.student:
            raise ValueError(f"teacher and student must be two stages; received '{self.teacher}' for both")
        return self

    @property
    def teachers(self) -> list[str]:
        return [self.teacher]

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_teacher(self.teacher, self.label, f"{key}.teacher")
        super().check(funnel, key)

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        teacher, weights = self.teacher_logits(outputs, batch, funnel), self.weights(batch, funnel)
        student = outputs[self.student].logits[self.label] / self.temperature
        teacher = teacher / self.temperature
        if self.form == "pointwise":
            values = torch.nn.functional.binary_cross_entropy_with_logits(
                student, teacher.sigmoid(), reduction="none"
            )
            return values, weights
        lists = self._lists(batch, funnel)
        if self.form == "listwise":
            return divergence(lists(student), lists(teacher), lists.mask), weights
        shares = chunk_shares(batch, self.chunks)
        return chunk_pairs(lists(student), lists(teacher), lists.mask, self.chunks, shares), weights

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        if self.form == "pointwise":
            return batch.weight * self._known(batch, funnel)
        lists = self._lists(batch, funnel)
        return lists.mean(lists(batch.weight)) * (lists.size > 1)

    def prepare(self, batch: Batch, funnel: FunnelSpec) -> None:
        if self.form != "pointwise":
            self._lists(batch, funnel)
        if self.form == "pairwise":
            chunk_shares(batch, self.chunks)

    def _lists(self, batch: Batch, funnel: FunnelSpec) -> PaddedLists:
        """The candidates of which the teacher's logits are targets."""
        population = self.population(funnel)
        if self.teacher not in funnel.scores:
            return PaddedLists.of_population(batch, population)
        known = self._known(batch, funnel)
        return batch.once(
            ("scored lists", self.teacher, *population.items()), lambda: PaddedLists.of(batch, known)
        )

    def _known(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        """For which candidates the teacher's logits are targets: (C,) bool."""
        chosen = batch.in_population(self.population(funnel))
        return chosen & ~batch.scores[self.teacher].isnan() if self.teacher in funnel.scores else chosen

    def teacher_logits(self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec) -> Tensor:
        """Return the teacher's detached logits, 0 where a score is unknown: (C,)."""
        if self.teacher in funnel.scores:
            return batch.scores[self.teacher].nan_to_num()
        return outputs[self.teacher].logits[self.label].detach()


def divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Compute KL(softmax(teacher) ‖ softmax(student)) of each list: (R,).

    Args:
        student, teacher: logits: (R, n).
        mask: whether there is a candidate: (R, n) bool.
    """
    # a finite floor, not −∞: 0 · (−∞ + ∞) is no number
    floor = torch.finfo(student.dtype).min
    p, q = (z.masked_fill(~mask, floor).log_softmax(1) for z in (teacher, student))
    return (p.exp() * (p - q).masked_fill(~mask, 0)).sum(1)


def chunk_pairs(student: Tensor, teacher: Tensor, mask: Tensor, chunks: int, shares: Tensor) -> Tensor:
    """Compute Σ w softplus(z_b − z_a) / Σ w over pairs drawn from chunks of the teacher's order: (R,).

    Args:
        student, teacher: logits: (R, n).
        mask: whether there is a candidate: (R, n) bool.
        chunks: how many; a list shorter than that has a chunk a candidate.
        shares: which part of each chunk is drawn, as `chunk_shares` of the batch.
    """
    chosen, drawn = draw_chunks(teacher, mask, chunks, shares)
    z = student.gather(1, chosen)
    gain = -torch.arange(z.shape[1], dtype=z.dtype, device=z.device)
    discount = 1 / torch.log2(2 - gain)
    lost = ((gain.unsqueeze(1) - gain) * (discount.unsqueeze(1) - discount)).triu(1)
    weight = lost * drawn.unsqueeze(1)
    value = torch.nn.functional.softplus(z.unsqueeze(1) - z.unsqueeze(2)) * weight
    return value.sum((1, 2)) / weight.sum((1, 2)).clamp_min(torch.finfo(z.dtype).tiny)


def chunk_shares(batch: Batch, chunks: int) -> Tensor:
    """Draw for each request which part of each chunk is drawn, from 0 up to 1, on the host: (R, chunks) float64."""
    return batch.once(("chunk shares", chunks), lambda: draw_shares(batch.draws, chunks))


def draw_shares(state: Tensor, chunks: int) -> Tensor:
    """As `chunk_shares`, from the state of each request: (R,) int64 → (R, chunks) float64."""
    hashes = draws.draw(state.cpu().numpy().view(np.uint64)[:, None], np.arange(chunks))
    return torch.from_numpy((hashes >> np.uint64(11)) * 2.0**-53).to(state.device)


def draw_chunks(teacher: Tensor, mask: Tensor, chunks: int, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a position of the list from each chunk of the teacher's order, best chunk first.

    Chunks differ in size by one at most; of fewer candidates than chunks each is drawn.

    Returns:
        Positions: (R, chunks), and whether there is one: (R, chunks) bool.
    """
    size = mask.sum(1, keepdim=True)
    order = falling_order(teacher.masked_fill(~mask, -torch.inf))
    chunk = torch.arange(min(chunks, teacher.shape[1]), device=teacher.device)
    parts = size.clamp(1, chunks)
    first, next_first = size * chunk // parts, size * (chunk + 1) // parts
    drawn = chunk < size
    within = (shares[:, : len(chunk)] * (next_first - first)).long()
    return order.gather(1, (first + within).where(drawn, 0)), drawn

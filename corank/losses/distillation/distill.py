"""Loss `distill`: the student stage learns the detached scores of a teacher, another stage or what production logged.

Letters: R requests · C candidates · n the longest list.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from corank.batches.batch import Batch
from corank.batches.draws import draw
from corank.losses.base import FunnelSpec
from corank.losses.padded import PaddedLists, falling_order
from corank.losses.settings.distill import DistillLoss
from corank.models.stage_io import StageOutput


def distill_values(
    loss: DistillLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `DistillLoss`."""
    teacher, known = teacher_logits(loss, outputs, batch, funnel)
    student = outputs[loss.student].logits[loss.label] / loss.temperature
    teacher = teacher / loss.temperature
    if loss.form == "pointwise":
        values = binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")
        return values, batch.weight * known
    lists = PaddedLists.of(batch, known)
    weight = lists.mean(lists(batch.weight)) * (lists.size > 1)
    if loss.form == "listwise":
        return listwise(lists(student), lists(teacher), lists.mask), weight
    return pairwise(lists(student), lists(teacher), lists.mask, loss.chunks, batch.draws), weight


def teacher_logits(
    loss: DistillLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """Return the teacher's detached logits, and for which candidates they are targets: (C,), (C,) bool."""
    chosen = batch.in_population(loss.population(funnel))
    if loss.teacher in funnel.scores:
        scores = batch.scores[loss.teacher]
        return scores.nan_to_num(), chosen & ~scores.isnan()
    return outputs[loss.teacher].logits[loss.label].detach(), chosen


def listwise(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Compute KL(softmax(teacher) ‖ softmax(student)) of each list: (R,).

    Args:
        student, teacher: logits: (R, n).
        mask: whether there is a candidate: (R, n) bool.
    """
    # a finite floor, not −∞: 0 · (−∞ + ∞) is no number
    floor = torch.finfo(student.dtype).min
    p, q = (z.masked_fill(~mask, floor).log_softmax(1) for z in (teacher, student))
    return (p.exp() * (p - q).masked_fill(~mask, 0)).sum(1)


def pairwise(student: Tensor, teacher: Tensor, mask: Tensor, chunks: int, draws: Tensor) -> Tensor:
    """Compute Σ w softplus(z_b − z_a) / Σ w over pairs drawn from chunks of the teacher's order: (R,).

    Args:
        student, teacher: logits: (R, n).
        mask: whether there is a candidate: (R, n) bool.
        chunks: how many; a list shorter than that has a chunk a candidate.
        draws: the state from which each request draws: (R,) int64.
    """
    chosen, drawn = draw_chunks(teacher, mask, chunks, draws)
    z = student.gather(1, chosen)
    gain = -torch.arange(z.shape[1], dtype=z.dtype, device=z.device)
    discount = 1 / torch.log2(2 - gain)
    lost = ((gain.unsqueeze(1) - gain) * (discount.unsqueeze(1) - discount)).triu(1)
    weight = lost * drawn.unsqueeze(1)
    value = softplus(z.unsqueeze(1) - z.unsqueeze(2)) * weight
    return value.sum((1, 2)) / weight.sum((1, 2)).clamp_min(torch.finfo(z.dtype).tiny)


def draw_chunks(teacher: Tensor, mask: Tensor, chunks: int, draws: Tensor) -> tuple[Tensor, Tensor]:
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
    hashes = draw(draws.cpu().numpy().view(np.uint64)[:, None], chunk.cpu().numpy())
    share = torch.from_numpy((hashes >> np.uint64(11)) * 2.0**-53).to(teacher.device)  # from 0 up to 1
    drawn = chunk < size
    within = (share * (next_first - first)).long()
    return order.gather(1, (first + within).where(drawn, 0)), drawn

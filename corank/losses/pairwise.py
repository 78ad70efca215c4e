"""Loss `pairwise`: of two candidates of a request the one with the better label must lead.

Letters: R requests · C candidates.
"""

from collections.abc import Mapping

from torch import Tensor

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.label_lists import grade_candidates, list_logits
from corank.losses.levels import pairs
from corank.losses.padded import PaddedLists
from corank.losses.settings.pairwise import PairwiseLoss
from corank.models.stage_io import StageOutput


def pairwise_values(
    loss: PairwiseLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `PairwiseLoss`."""
    grade, known = grade_candidates(loss, batch)
    gains = loss.gain_of_grade
    by_grade = [PaddedLists.of(batch, known & (grade == g)) for g in range(len(gains))]
    value, mass = pairs(list_logits(loss, outputs), by_grade, gains)
    lists = PaddedLists.of(batch, known)
    return value / mass.where(mass > 0, 1), lists.mean(lists(batch.weight)) * (mass > 0)

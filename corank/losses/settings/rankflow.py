"""Loss `rankflow`: a stage learns on what earlier stages pass on to it, from the log and from the stage after it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.settings.funnel import FunnelLoss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


@LOSSES.register("rankflow")
class RankFlowLoss(FunnelLoss):
    """Every stage learns the truth and the opinion of its successor on its own candidates.

    D_1 are the candidates of the levels `on`; D_{s + 1} are the q_s of D_s that stage s puts first now, q_s its `keep`
    or `top`. y = 1 marks the levels `positive`, z_s are the logits of stage s, t those of stage s + 1, detached.

    L = Σ_s mean over D_s of BCE(z_s, y) + Σ_{s < last} α softplus(rest_s − best_s) + (1 − α) mean over D_s of
    (z_s − t)², where best_s is the mean of z_s over the q_{s + 1} of D_s with the highest t, and rest_s over the others
    of D_s; without others, that term is 0.

    Source: Qin et al., RankFlow: Joint Optimization of Multi-Stage Cascade Ranking Systems as Flows, SIGIR 2022
    (doi 10.1145/3477495.3532050): self-learning is the first sum, tutor learning the second. The paper takes them in
    turns after a warm-up; here they are one sum, and a tutor learns while it teaches.
    """

    kind: Literal["rankflow"] = "rankflow"
    alpha: Annotated[float, Ge(0), Le(1)] = 0.5
    """α: the tutor's choice of the best against its scores."""

    @property
    def name(self) -> str:
        return "rankflow"

    def values(
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.cascades.rankflow import rankflow_values

        return rankflow_values(self, outputs, batch, funnel)

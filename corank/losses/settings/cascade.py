"""Loss `cascade`: the candidates that matter must survive every stage of the funnel, so all stages learn together."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.settings.funnel import FunnelLoss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


@LOSSES.register("cascade")
class CascadeLoss(FunnelLoss):
    """Survival of the positives through the cut of every stage, with a sorting relaxed so that gradients pass.

    q_s is `top`, or else the quota (`keep`) of stage s; y = 1 marks candidates of the levels `positive`; P̂_s is
    the NeuralSort matrix of stage s at temperature τ, row t the t-th rank; sg stops the gradient.

    `lcron`: raw = sg(Σ_t P̂_s[t]), up_s = Σ_{t ≤ q_s} P̂_s[t] / raw, down_s = Σ_{t > q_s} P̂_s[t] / raw; L = mean of
    −y log Π_s up_s − (1 − y) log(1 − Π_s (1 − down_s)) + ½ Σ_s mean of −y log up_s − (1 − y) log down_s, over the
    request's candidates. up + down is 1, but the gradient of down is that of the lower rows: through 1 − up what
    should be cut would not learn (docs/decisions/lcron-cross-entropy.md). Source: LCRON, arXiv 2503.09492.

    `dftopk`: the same with up_s = σ((z − (z[q_s] + z[q_s + 1]) / 2) / τ), where z[k] is the k-th largest logit,
    down_s = 1 − up_s, and a stage's own term in full. It takes linear time. Source: DFTopK, arXiv 2510.11472.

    `arf`: L = −Σ_s (mean over y = 1 of log(Σ_{t ≤ q_s} P̂_s[t] / q_s) + mean over t of log P̂_s[t, i_t]), where
    i_t is the t-th candidate by level, ties in the stage's own order, so that they have no gradient. Source: arXiv
    2310.10462, without its learnt weights of the two parts.

    `icc`: LambdaLoss of the cascade's result F = Σ_s (1 − I_s) Π_{r < s} I_r z_s, z the logits. I_s = σ((z_s −
    sg(z_s[q_s])) / τ) is how far stage s keeps a candidate; the last stage passes none on, I = 0. L = Σ over y_a = 1,
    y_b = 0 of |D_a − D_b| softplus(F_b − F_a) / Σ of D_t over the first Σ y ranks, D = 1 / log2(1 + rank by F).
    I_s passes no gradient: with one, a pre-ranker may learn to cut the best, whose own scores then lead F. Source:
    Gallagher et al., Joint Optimization of Cascade Ranking Models, WSDM 2019, with independent scores, the logistic
    indicator and approximate gradients, which weigh a stage's own.

    A stage that keeps all candidates of a request cuts none there, and learns nothing from it; in `icc` it passes on.
    """

    kind: Literal["cascade"] = "cascade"
    form: Literal["lcron", "arf", "dftopk", "icc"]
    """Which relaxation of the cut: by a sort, or by the distance from the last candidate that is kept."""
    temperature: PositiveFloat = 1.0
    """τ: the relaxation is sharper at lower ones."""

    @property
    def name(self) -> str:
        return f"cascade.{self.form}"

    def values(
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.cascade import cascade_values

        return cascade_values(self, outputs, batch, funnel)

"""Loss `cascade`: the candidates that matter must survive every stage of the funnel, so all stages learn together."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import PositiveFloat, model_validator

from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.settings.funnel import FunnelLoss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


LEARNS_WEIGHTS = ("lcron", "arf", "arf_v2")
"""Forms whose weights may be learnt, as by their authors."""


@LOSSES.register("cascade")
class CascadeLoss(FunnelLoss):
    """Survival of the positives through the cut of every stage, with a sorting relaxed so that gradients pass.

    q_s is `top`, or else the quota (`keep`) of stage s; y = 1 marks candidates of the levels `positive`; P̂_s is
    the NeuralSort matrix of stage s at temperature τ, row t the t-th rank; sg stops the gradient.

    `lcron`: raw = sg(Σ_t P̂_s[t]), up_s = Σ_{t ≤ q_s} P̂_s[t] / raw, down_s = Σ_{t > q_s} P̂_s[t] / raw; L = mean of
    −y log Π_s up_s − (1 − y) log(1 − Π_s (1 − down_s)) + ½ Σ_s mean of −y log up_s − (1 − y) log down_s, over the
    request's candidates. up + down is 1, but the gradient of down is that of the lower rows: through 1 − up what
    should be cut would not learn (docs/decisions/lcron-cross-entropy.md). Source: LCRON, arXiv 2503.09492. With
    `weights: learnt`, as its authors train it, a stage's own term has the weight 1 / (2 σ_s²) in place of ½.

    `dftopk`: the same with up_s = σ((z − (z[q_s] + z[q_s + 1]) / 2) / τ), where z[k] is the k-th largest logit,
    down_s = 1 − up_s, and a stage's own term in full. It takes linear time. Source: DFTopK, arXiv 2510.11472.

    `arf`: L = Σ_s (L_Relax + L_Global), L_Relax = −mean over y = 1 of log(Σ_{t ≤ q_s} P̂_s[t] / q_s), L_Global =
    −mean over t of log P̂_s[t, i_t], where i_t is the t-th candidate by level, ties in the stage's own order, so that
    they have no gradient. Source: arXiv 2310.10462. With `weights: learnt`, as its authors train it, L_Relax is a mean
    over all n candidates, 0 where y = 0, and L_Global / n has the weight 1 / (2 σ_s²).

    `arf_v2`: `arf` with LCRON's own term of a stage in full, mean of −y log up_s − (1 − y) log down_s, as L_Relax.
    Source: a baseline of LCRON, arXiv 2503.09492, with `weights: learnt`.

    `icc`: LambdaLoss of the cascade's result F = Σ_s (1 − I_s) Π_{r < s} I_r z_s, z the logits. I_s = σ((z_s −
    sg(z_s[q_s])) / τ) is how far stage s keeps a candidate; the last stage passes none on, I = 0. L = Σ over y_a = 1,
    y_b = 0 of |D_a − D_b| softplus(F_b − F_a) / Σ of D_t over the first Σ y ranks, D = 1 / log2(1 + rank by F).
    I_s passes no gradient: with one, a pre-ranker may learn to cut the best, whose own scores then lead F. Source:
    Gallagher et al., Joint Optimization of Cascade Ranking Models, WSDM 2019, with independent scores, the logistic
    indicator and approximate gradients, which weigh a stage's own.

    Each learnt weight 1 / (2 σ_s²) adds log σ_s to the loss of a request, so that it tends to 1 / (2 L) of the part L
    that it weighs. It begins at ½, and is reported with the losses during training.

    A stage that keeps all candidates of a request cuts none there, and learns nothing from it; in `icc` it passes on.
    """

    kind: Literal["cascade"] = "cascade"
    form: Literal["lcron", "arf", "arf_v2", "dftopk", "icc"]
    """Which relaxation of the cut: by a sort, or by the distance from the last candidate that is kept."""
    temperature: PositiveFloat = 1.0
    """τ: the relaxation is sharper at lower ones."""
    weights: Literal["fixed", "learnt"] = "fixed"
    """Whether a stage's own term of `lcron`, or L_Global of `arf` and `arf_v2`, has a weight that is learnt."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weights == "learnt" and self.form not in LEARNS_WEIGHTS:
            raise ValueError(
                f"weights: only {', '.join(LEARNS_WEIGHTS)} learn theirs; write weights: fixed, or another form; "
                f"received form {self.form}"
            )
        return self

    @property
    def name(self) -> str:
        return f"cascade.{self.form}"

    def learnt_weights(self, funnel: FunnelSpec) -> list[str]:
        return self.reads(funnel) if self.weights == "learnt" else []

    def values(
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.cascade import cascade_values

        return cascade_values(self, outputs, batch, funnel)

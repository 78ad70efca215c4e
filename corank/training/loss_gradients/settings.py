"""What a config says of gradients that contradict each other."""

from collections.abc import Collection, Iterable
from itertools import combinations

from pydantic import PositiveInt

from corank.core.errors import ConfigError
from corank.core.settings import Settings
from corank.losses.total import TotalLoss
from corank.models.settings.network import NetworkSettings


class GradientConflict(Settings):
    """How far the losses of a step contradict each other in the weights that they share.

    Every so many steps the gradients of each loss, times its weight, are computed by themselves, and recorded is the
    cosine of each two: of the embedding tables, and of the layers that both reach. Below 0 one loss undoes what the
    other does. That changes nothing in what is learnt.

    With `project` it does, in every step: the gradient of a loss loses what points against that of another,
    g_i ← g_i − (g_i·g_j / |g_j|²) g_j where g_i·g_j < 0, for the others j in an order drawn from the seed, and the step
    takes the sum of all g_i. Tables and layers are projected each by themselves, and only in weights that both losses
    reach. Source: PCGrad, Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020 (arXiv 2001.06782).

    One process only.
    """

    every: PositiveInt = 100
    """Optimiser steps from one measurement to the next."""
    project: bool = False
    """Whether steps take projected gradients. Costs a backward pass a loss in every step, in place of one for all."""


def check_shared_weights(total: TotalLoss, networks: Iterable[NetworkSettings], mode: str) -> None:
    """Raise ConfigError if no two losses learn the same weights in one update, so that nothing is to be compared.

    Args:
        total: all losses.
        networks: stages and teachers.
        mode: `train.mode`.
    """
    sharing = {n.name for n in networks if n.embeddings == "shared" and n.table_gradient}
    trained = [(loss.learner, set(total.trained_by(loss))) for loss in total.losses if loss.weight > 0]
    if not any(
        _share(one, other, sharing)
        for (learner, one), (other_learner, other) in combinations(trained, 2)
        if mode == "joint" or learner == other_learner
    ):
        raise ConfigError(
            f"train.gradient_conflict: no two losses learn the same weights in one step of train.mode: {mode}, so it "
            "would have no effect; drop it, or share embeddings, or give a stage another loss"
        )


def _share(one: Collection[str], other: Collection[str], sharing: set[str]) -> bool:
    """Whether two losses learn the same weights, of the stages that each trains."""
    return bool(set(one) & set(other)) or bool(sharing & set(one) and sharing & set(other))

"""Parameters of a network that only training reads: terms of positions, and the numbers that losses learn.

Letters: C candidates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding


def add_terms(network: nn.Module, labels: int, positions: int, losses: int) -> None:
    """Add the parameters to a network, all of them 0.

    Args:
        network: of a stage or teacher.
        labels: that it predicts.
        positions: how many there are on a page; 0 if the log does not have them.
        losses: how many learn a number there.
    """
    if positions:
        network.position = nn.ParameterList(nn.Parameter(torch.zeros(positions)) for _ in range(labels))
    if losses:
        network.loss_parameter = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(losses))


def look_up_positions(position: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each candidate's position adds to a stage's logits, by label; 0 if it is unknown, −1: (C,)."""
    known = (position >= 0).float()
    # not by an index, whose gradient adds up in no fixed order
    return {
        label: embedding(position.clamp_min(0), term.unsqueeze(1)).squeeze(1) * known
        for label, term in terms.items()
    }

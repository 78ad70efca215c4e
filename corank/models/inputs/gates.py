"""Gates: how much a feature counts, by what else is known of its side.

Letters: N rows · W columns of a placement's input · B features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.models.inputs.named_axes import AxisNames, name_axes
from corank.models.layers import linear


class FeatureGates(nn.Module):
    """x_f ← 2 σ(V relu(U x + a) + c)_f · x_f for the columns of each feature f; 1 before it has learnt.

    Each placement has gates of its own, so that a query's run once a request and an item's once an item.
    Source: the squeeze and excitation of FiBiNET, Huang, Zhang, Zhang, RecSys 2019 (arXiv 1905.09433), which excites
    by the mean of each embedding; the factor 2 σ is that of LHUC, Swietojanski and Renals, SLT 2014.
    """

    block_of: Tensor

    def __init__(self, inputs: AxisNames, features: Sequence[str], hidden: int) -> None:
        """
        Args:
            inputs: the names of the columns: (W,).
            features: whose each column is: (W,).
            hidden: width of the layer between inputs and gates.
        """
        super().__init__()
        blocks = tuple(dict.fromkeys(features))
        block_index = {name: n for n, name in enumerate(blocks)}
        self.register_buffer("block_of", torch.tensor([block_index[f] for f in features]), persistent=False)
        self.squeeze = name_axes(nn.Linear(len(inputs), hidden), weight=(None, inputs))
        self.excite = name_axes(nn.Linear(hidden, len(blocks)), weight=(blocks, None), bias=(blocks,))
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the features of each row: (N, W) → (N, W)."""
        gates = 2 * linear(functional.relu(linear(x, self.squeeze)), self.excite).sigmoid()
        return x * gates.index_select(1, self.block_of)

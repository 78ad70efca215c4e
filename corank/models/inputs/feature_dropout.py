"""Features that a training step leaves out, row by row.

Letters: N rows · W columns of a placement's input.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.features.input_layout import Layout
from corank.features.schema import Placement
from corank.models.layers import Columns


class FeatureDropout(nn.Module):
    """In training a feature's columns are 0 at a rate, and 1/(1 − rate) times as large otherwise.

    With squared error and a linear layer, y ≈ c(x) + r of a feature's own part r and the others' part c, the minimum is
    r = (1 − rate)·(y − c) on the mean of the rows that share the feature: c must do without r, and r is shrunk to 1 −
    rate of what is left. Scaling the layers up or down does not undo that, as it does with a penalty on weights.
    Dropout (Srivastava et al., JMLR 2014) of whole features; corank uses it to set how far to trust an id.
    """

    def __init__(self, layout: Layout, placement: Placement, rates: Mapping[str, float]) -> None:
        """`rates`: by feature; those of other placements are left alone."""
        super().__init__()
        placed = layout.schema.row_features(placement)
        self.rates = [rate for name, rate in rates.items() if name in placed]
        self.columns = nn.ModuleList(
            Columns(layout.columns(placement, [name]).tolist()) for name in rates if name in placed
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, W), as it is outside training."""
        if not self.training or not self.rates:
            return x
        factor = torch.ones_like(x)
        for rate, chosen in zip(self.rates, self.columns, strict=True):
            kept = functional.dropout(x.new_ones(len(x), 1), rate)
            columns = cast(Columns, chosen).columns
            factor.index_copy_(1, columns, kept.expand(-1, len(columns)))
        return x * factor

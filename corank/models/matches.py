"""What matches of a query and an item add to a logit: numbers of the pair that a pre-ranker can afford.

Letters: C' candidates of a batch, rounded up · m columns of the matches.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from corank.features.input_layout import Layout
from corank.models.inputs.named_axes import name_axes, name_inputs
from corank.models.layers import Columns
from corank.models.stage_io import StageInputs


class MatchTerm(nn.Module):
    """⟨w, x⟩ of the columns x of some matches: numbers, or embeddings of buckets.

    w begins at nought for numbers and at one for embeddings, so that each bucket learns a term at the rate of tables.
    """

    def __init__(self, layout: Layout, features: Sequence[str]) -> None:
        """`features` are the names of the matches."""
        super().__init__()
        columns = layout.columns("cross", features).tolist()
        self.columns = Columns(columns)
        embedded = [n for n in features if layout.schema.features[n].storage == "id"]
        ones = torch.from_numpy(np.isin(columns, layout.columns("cross", embedded)))
        self.weight = nn.Parameter(ones.float())
        name_axes(self, weight=(name_inputs(layout, "cross", columns),))

    def forward(self, inputs: StageInputs) -> Tensor:
        """What is added to logits: (C',)."""
        return torch.mv(self.columns(inputs.cross).float(), self.weight)

    def constants(self) -> dict[str, float]:
        """The weights, for the scorer, by `match_N` in the order of the columns."""
        return {f"match_{n}": weight for n, weight in enumerate(self.weight.tolist())}

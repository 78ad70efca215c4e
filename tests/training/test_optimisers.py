"""Row-wise Adagrad whose sums fade, against the formula; the setting has an effect or is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from corank.models.tables.embedding import row_gradient
from corank.training.config.settings import TableOptimiser
from corank.training.optimisers import table_optimiser


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_a_sum_fades_at_each_update_of_its_row(decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    table = nn.Parameter(torch.randn(4, 3, generator=generator))
    optimiser = table_optimiser([table], TableOptimiser(lr=0.1, decay=decay))
    expected, total = table.detach().numpy().astype(np.float64), np.zeros(4)
    for rows in ([0, 2], [2], [1, 2, 3], [0, 2]):
        gradient = torch.randn(len(rows), 3, generator=generator)
        table.grad = row_gradient(torch.tensor(rows), gradient, table.shape)
        optimiser.step()
        for row, g in zip(rows, gradient.numpy().astype(np.float64), strict=True):
            total[row] = decay * total[row] + np.mean(g**2)
            expected[row] -= 0.1 * g / (np.sqrt(total[row]) + 1e-8)
    np.testing.assert_allclose(table.detach().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(optimiser.state[table]["sum"].numpy(), total, rtol=1e-5)

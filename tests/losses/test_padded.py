"""The order of lists: by falling score, as torch's stable sort has it."""

import torch

from corank.losses.padded import falling_order


def test_falling_order_is_that_of_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 30, generator=generator)
    scores[:10] = torch.randint(-2, 3, (10, 30), generator=generator).float()  # many are equal
    scores[10:20] *= 1e-40  # subnormal
    scores[20:30, ::3] = -0.0
    scores[20:30, 1::3] = 0.0
    scores[:, 25:] = -torch.inf
    scores[3, 4] = torch.inf
    expected = scores.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(falling_order(scores), expected)
    assert torch.equal(falling_order(scores.double()), expected)
    assert falling_order(scores[:, :0]).shape == (40, 0)

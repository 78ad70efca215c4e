"""Optimisers train without torch's compiler, to the bits that they train to with it."""

import json
import subprocess
import sys

import pytest

STEPS = """
import json, sys
import torch
from corank.training.eager_optimisers import skip_compiler

if sys.argv[1] == "skip":
    skip_compiler()
torch.manual_seed(0)
layer, table = torch.nn.Linear(3, 2), torch.nn.EmbeddingBag(5, 3, sparse=True)
optimisers = [
    torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True),
    torch.optim.SparseAdam(table.parameters(), lr=0.1),
]
for step in range(3):
    for one in optimisers:
        one.zero_grad()
    layer(table(torch.tensor([[step, 1], [4, 2]]))).square().sum().backward()
    for one in optimisers:
        one.step()
        one.load_state_dict(one.state_dict())
recorded = [p.requires_grad and p.is_leaf for p in (*layer.parameters(), *table.parameters())]
weights = [p.tolist() for p in (*layer.parameters(), *table.parameters())]
print(json.dumps([weights, recorded, "torch._dynamo" in sys.modules]))
"""


def train(mode: str) -> list[object]:
    command = [sys.executable, "-c", STEPS, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ended: list[object] = json.loads(done.stdout)
    return ended


@pytest.mark.slow
def test_optimisers_train_to_the_same_bits_without_the_compiler() -> None:
    weights, leaves, compiler = train("skip")
    assert not compiler
    assert train("as torch has them") == [weights, leaves, True]

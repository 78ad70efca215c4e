"""The training step of an earlier commit and of the working tree in turn: processor time, and whether every bit agrees.

Both train the model of `train_throughput` on one thread, on the same packed data: 12 steps, after which weights and
optimiser states are compared, then one step a round.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.checkout import Checkout, base_checkout
from benchmarks.speed.paired import repeat, repeating
from benchmarks.speed.train_throughput import packed_log

STEPS = 12
"""Before bits are compared."""
PROGRAM = """
import hashlib, sys, time
from pathlib import Path
import torch
from benchmarks.speed import train_throughput
from corank.batches.reader import Reader
from corank.data.packed.dataset import PackedDataset

made = {}
def keep(name, make):
    def kept(*arguments, **named):
        made[name] = make(*arguments, **named)
        return made[name]
    return kept
for name in ("JointModel", "optimisers"):
    setattr(train_throughput, name, keep(name, getattr(train_throughput, name)))

packed = PackedDataset.open(Path(sys.argv[1]))
train_throughput.keep_freed_memory()
run = train_throughput.stepper(
    packed, Reader(packed, "train", int(sys.argv[2])), lambda model, batch: model(batch), dtype=sys.argv[3]
)
digest = hashlib.sha256()
for _ in range(int(sys.argv[4])):
    next(run)
states = [optimiser.state for optimiser in made["optimisers"].values()]
values = [value for state in states for of_weight in state.values() for value in of_weight.values()]
for value in [*made["JointModel"].parameters(), *values]:
    digest.update(torch.as_tensor(value).detach().contiguous().numpy().tobytes())
sys.stdin.readline()
print(int(digest.hexdigest()[:12], 16), flush=True)
for line in sys.stdin:
    began = time.process_time()
    next(run)
    print(1000 * (time.process_time() - began), flush=True)
"""


def measure(sides: Sequence[Checkout], rounds: int, *arguments: object) -> dict[str, float]:
    """Whether the bits of both sides agree, 1 or 0, and their milliseconds a step."""
    with ExitStack() as stack:
        old, new = (stack.enter_context(repeating(code, PROGRAM, *arguments, STEPS)) for code in sides)
        same = repeat(old) == repeat(new)
        times = np.array([(repeat(old), repeat(new)) for _ in range(rounds)])
    least, differences = times.min(0), times[:, 1] - times[:, 0]
    return {
        "same_bits": float(same),
        "least_ms_before": least[0],
        "least_ms": least[1],
        "difference_ms": float(np.median(differences)),
        "ratio": float(np.median(times[:, 1] / times[:, 0])),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench step_turns", description=__doc__)
    parser.add_argument("base", nargs="?", default="HEAD", help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, harness.Figure] = {}
    with tempfile.TemporaryDirectory() as name, base_checkout(Path(name), options.base) as sides:
        packed_log(Path(name), requests=24_576)
        for size in options.sizes:
            for dtype in ("bf16", "fp32"):
                values = measure(sides, options.rounds, Path(name) / "packed", size, dtype)
                figures |= {f"{figure}@{size}, {dtype}": value for figure, value in values.items()}
    aims = {key: ("==", 1.0) for key in figures if key.startswith("same_bits")}
    harness.report("step_turns", figures, aims, options.json)


if __name__ == "__main__":
    main()

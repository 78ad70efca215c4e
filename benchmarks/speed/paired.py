"""An earlier commit and the working tree in turn: packing, training speed, time of a request in process, as ratios.

Both pack and train the same config on copies of one log, and rank the same 300 requests of 1,000 candidates by the same
bundle, one after another in every round, so that a slow spell of the machine meets both. A ratio is the median over
rounds: `train_ratio` of candidates/s (higher is faster), `pack_ratio` of seconds and `rank_ratio` of microseconds
(lower is faster).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import harness
from benchmarks.checkout import Checkout, base_checkout

ITEMS, REQUESTS, CANDIDATES = 5_000, 300, 1_000
PACKED_REQUESTS = 40_000
"""Of the log whose packing is timed, each of 50 candidates."""
AIMS = {"pack_ratio": ("<=", 1.02), "train_ratio": (">=", 0.98), "rank_ratio": ("<=", 1.02)}
PACK = """
import shutil, sys, time
from pathlib import Path
import corank

config = Path(sys.argv[1])
for line in sys.stdin:
    shutil.rmtree(config.parent / "packed", ignore_errors=True)  # else nothing is left to do
    began = time.perf_counter()
    corank.pack(config)
    print(time.perf_counter() - began, flush=True)
"""
RANK = """
import json, statistics, sys, time
from pathlib import Path
try:
    from corank.funnel.funnel import Funnel
    from corank.funnel.request import Request
except ImportError:
    from corank.funnel import Funnel, Request

funnel = Funnel.open(Path(sys.argv[1]))
requests = [Request.parse(one) for one in json.loads(Path(sys.argv[2]).read_text())]
for line in sys.stdin:
    seconds = []
    for request in requests:
        began = time.perf_counter()
        funnel.rank(request)
        seconds.append(time.perf_counter() - began)
    print(statistics.median(seconds) * 1e6, flush=True)
"""


def train_speed(code: Checkout, config: Path, run: Path) -> float:
    """Candidates a second of one training, the median over its log."""
    code.output("train", config, "--run", run, threads=None)
    board = EventAccumulator(str(run / "events"), size_guidance={"scalars": 0})
    board.Reload()
    return float(np.median([event.value for event in board.Scalars("candidates_per_second")]))


@contextmanager
def repeating(code: Checkout, program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that does for every line that it reads what its program says, and prints the time."""
    environment = os.environ | {"PYTHONPATH": str(code.root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def repeat(process: subprocess.Popen[str]) -> float:
    """Let a process do it once more. Returns the time that it prints."""
    assert process.stdin and process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def in_turn(
    starts: Sequence[AbstractContextManager[subprocess.Popen[str]]], rounds: int
) -> list[list[float]]:
    """The times of both processes, round by round, after one to warm up."""
    with ExitStack() as stack:
        processes = [stack.enter_context(start) for start in starts]
        for process in processes:
            repeat(process)
        return [[repeat(process) for process in processes] for _ in range(rounds)]


def write_requests(code: Checkout, run: Path, to: Path) -> None:
    """Write requests like a logged one, each with CANDIDATES items of the catalogue."""
    rng = np.random.default_rng(0)
    request = json.loads(code.output("request", run))
    made = []
    for _ in range(REQUESTS):
        ids = rng.permutation(ITEMS)[:CANDIDATES].tolist()
        described = [dict(request["candidates"][0], id=int(id_)) for id_ in ids]
        made.append(request | {"candidates": described, "trace": False})
    to.write_text(json.dumps(made), encoding="utf-8")


def measure(base: Checkout, new: Checkout, folder: Path, rounds: int) -> dict[str, harness.Figure]:
    """Figures of both commits and their ratios."""
    sides = (base, new)
    large, small = (
        [_copy_world(base, folder / name, requests, n) for n in range(2)]
        for name, requests in (("large", PACKED_REQUESTS), ("small", 12_000))
    )
    seconds = in_turn(
        [repeating(code, PACK, config) for code, config in zip(sides, large, strict=True)], rounds
    )
    for code, config in zip(sides, small, strict=True):
        code.output("pack", config)
    speeds = [
        [train_speed(code, small[at], folder / f"run-{n}-{at}") for at, code in enumerate(sides)]
        for n in range(rounds)
    ]
    run, bundle, requests = (folder / name for name in ("run", "bundle", "requests.json"))
    base.output("train", small[0], "--run", run)
    base.output("export", run, bundle)
    write_requests(base, run, requests)
    times = in_turn([repeating(code, RANK, bundle, requests) for code in sides], 4 * rounds)
    return (
        figures("pack", "seconds", seconds)
        | figures("train", "candidates_per_second", speeds)
        | figures("rank", "us", times)
    )


def _copy_world(base: Checkout, world: Path, requests: int, copy: int) -> Path:
    """Make a copy of a world, and the world if it is not there. Returns the copy's config."""
    if not world.exists():
        base.output("simulate", world, "--requests", requests, "--candidates", 50, "--items", ITEMS)
    shutil.copytree(world, world.with_name(f"{world.name}-{copy}"))
    return world.with_name(f"{world.name}-{copy}") / "config.yaml"


def figures(what: str, unit: str, rounds: Sequence[Sequence[float]]) -> dict[str, harness.Figure]:
    """Medians of the earlier commit and of the new one, and the median of their ratios."""
    old, new = np.array(rounds).T
    return {
        f"{what}_{unit}_before": float(np.median(old)),
        f"{what}_{unit}": float(np.median(new)),
        f"{what}_ratio": float(np.median(new / old)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench paired", description=__doc__)
    parser.add_argument("base", nargs="?", default="HEAD", help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, base_checkout(Path(folder), arguments.base) as (base, new):
        results = measure(base, new, Path(folder), arguments.rounds)
    harness.report("paired", results, AIMS, arguments.json)


if __name__ == "__main__":
    main()

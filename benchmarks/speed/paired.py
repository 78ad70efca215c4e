"""An earlier commit and the working tree in turn: training speed, and time of a request in process, as ratios.

Both train the same config on the same packed log, and rank the same 300 requests of 1,000 candidates by the same
bundle, one after another in every round, so that a slow spell of the machine meets both. A ratio is the median over
rounds: `train_ratio` of candidates/s (higher is faster), `rank_ratio` of microseconds (lower is faster).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import harness
from benchmarks.checkout import Checkout, base_checkout

ITEMS, REQUESTS, CANDIDATES = 5_000, 300, 1_000
AIMS = {"train_ratio": (">=", 0.98), "rank_ratio": ("<=", 1.02)}
RANK = """
import json, statistics, sys, time
from pathlib import Path
try:
    from corank.serving.funnel.funnel import Funnel
    from corank.serving.funnel.request import Request
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
def ranking(code: Checkout, bundle: Path, requests: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that ranks all requests for every line that it reads."""
    environment = os.environ | {"PYTHONPATH": str(code.root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", RANK, str(bundle), str(requests)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def rank_time(process: subprocess.Popen[str]) -> float:
    """Microseconds of a request, the median over all."""
    assert process.stdin and process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


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
    world, run, bundle, requests = (folder / name for name in ("world", "run", "bundle", "requests.json"))
    base.output("simulate", world, "--requests", 12_000, "--candidates", 50, "--items", ITEMS)
    config = world / "config.yaml"
    base.output("pack", config)
    sides = (base, new)
    speeds = [
        [train_speed(code, config, folder / f"run-{n}-{at}") for at, code in enumerate(sides)]
        for n in range(rounds)
    ]
    base.output("train", config, "--run", run)
    base.output("export", run, bundle)
    write_requests(base, run, requests)
    with ExitStack() as stack:
        processes = [stack.enter_context(ranking(code, bundle, requests)) for code in sides]
        for process in processes:
            rank_time(process)
        times = [[rank_time(process) for process in processes] for _ in range(4 * rounds)]
    return figures("train", "candidates_per_second", speeds) | figures("rank", "us", times)


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
        found = measure(base, new, Path(folder), arguments.rounds)
    harness.report("paired", found, AIMS, arguments.json)


if __name__ == "__main__":
    main()

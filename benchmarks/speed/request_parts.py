"""Microseconds of a request by part, in process, of the working tree and of an earlier checkout in turns.

Each runs in a process of its own, on one core, with a bundle that its own code exported. A part's time is the least of
all rounds, by request, then the median over requests: what else the machine does meets both alike. `batch_of_8` is a
request's share of eight that are ranked at once, read and answered.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.checkout import Checkout
from benchmarks.load import on_core
from benchmarks.million import Million, train_alike

REQUESTS = 100
PROGRAM = """
import json, sys, time
from pathlib import Path
import msgspec
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank_serve.http.body import JSON_CODEC

def decode(body):  # as the service does
    return JSON_CODEC.decode(body, Request)

funnel = Funnel.open(Path(sys.argv[1]))
stages = [stage.name for stage in funnel.manifest.stages]
for line in sys.stdin:
    bodies, found = Path(line.rstrip("\\n")).read_bytes().splitlines(), []
    for body in bodies:
        began = time.perf_counter()
        request = decode(body)
        read = time.perf_counter()
        result = funnel.run(request)
        ranked = time.perf_counter()
        answer = msgspec.json.encode(result.to_answer())
        ended = time.perf_counter()
        parts = {"parse": read - began, "encode": result.seconds["receive"]}
        parts |= {name: result.seconds[name] for name in stages if name in result.seconds}
        parts["between"] = ranked - began - sum(parts.values())
        found.append(parts | {"answer": ended - ranked, "whole": ended - began})
    for first in range(0, len(bodies), 8) if hasattr(funnel, "rank_many") else ():
        began = time.perf_counter()
        asked = [decode(body) for body in bodies[first : first + 8]]
        answers = [msgspec.json.encode(answer) for answer in funnel.rank_many(asked)]
        share = (time.perf_counter() - began) / len(answers)
        for one in found[first : first + 8]:
            one["batch_of_8"] = share
    print(json.dumps({name: [one.get(name, 0.0) for one in found] for name in found[0]}), flush=True)
"""


def bundle_of(made: Million, code: Checkout) -> Path:
    """The bundle that a checkout makes of the same logs: its formats may be others. Made where it is not there."""
    commit = subprocess.run(
        ["git", "-C", str(code.root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    folder = made.folder / f"bundle-{commit.stdout.strip()[:12]}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        run = folder.with_suffix(".run")
        train_alike(code, made.folder / "config.yaml", run, f"packed=packed-{folder.name}")
        code.output("export", run, partial)
        code.output("refresh", partial, made.log, "--items", made.items)
        partial.rename(folder)
    return folder


@contextmanager
def ranking(code: Checkout, bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that ranks the requests of a file for every line that it reads."""
    environment = os.environ | {"PYTHONPATH": str(code.root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", PROGRAM, str(bundle)]
    with (
        on_core(0),
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        yield process
        process.kill()


def take_parts(
    made: Million, bundles: dict[str, tuple[Checkout, Path]], candidates: int, rounds: int
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Seconds of each request by checkout and part, the least of all rounds: (REQUESTS,)."""
    bodies = made.folder / f"requests-{candidates}.jsonl"
    lines = map(msgspec.json.encode, made.requests(REQUESTS, candidates=candidates))
    bodies.write_bytes(b"\n".join(lines))
    fastest: dict[str, dict[str, NDArray[np.float64]]] = {}
    with ExitStack() as started:
        ranked = {name: started.enter_context(ranking(*one)) for name, one in bundles.items()}
        for turn in range(1 + rounds):  # the first warms up
            for name, process in ranked.items():
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(f"{bodies}\n")
                process.stdin.flush()
                parts = {part: np.array(s) for part, s in json.loads(process.stdout.readline()).items()}
                if turn > 1:
                    parts = {part: np.minimum(s, fastest[name][part]) for part, s in parts.items()}
                fastest[name] = parts
    return fastest


def part_figures(
    made: Million, bundles: dict[str, tuple[Checkout, Path]], candidates: int, rounds: int
) -> dict[str, float]:
    """By part the median, µs, and how many times that of the other checkout it is."""
    taken = take_parts(made, bundles, candidates, rounds)
    figures: dict[str, float] = {}
    for part, seconds in taken["now"].items():
        key = f"{made.kind}.{candidates}.{part}"
        figures[f"{key}_us"] = float(np.median(seconds) * 1e6)
        if "before" in taken:  # which may rank one request at a time alone
            before = taken["before"].get(part, taken["before"]["whole"])
            figures[f"{key}_before_us"] = float(np.median(before) * 1e6)
            figures[f"{key}_times_before"] = float(np.median(seconds / before))
    return figures

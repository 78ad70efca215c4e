"""Two processes each of export, refresh, publish, upsert, pack, train and prune on one target, killed at random.

Real commands in real processes on one bundle, store, run and folder of packed data. In every round four commands are
drawn, each is started twice at random moments, and some are killed with SIGKILL. Meanwhile a reader opens the bundle
and the packed data, and every state of the bundle is noted. Figures: `rounds`; `commands`; `killed` processes;
`refused` ones; `looks` of the reader; `broken`, rounds in which a target could not be used; `lost`, rounds in which an
acknowledged change was not there, or a change came from nowhere; `unnamed`, refusals that do not say who holds the
target or what came between.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks import harness
from benchmarks.robustness.writers_rounds import run_writers
from tests.support.redis_server import redis_server

AIMS = {"broken": ("==", 0.0), "lost": ("==", 0.0), "unnamed": ("==", 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--redis", action="store_true", help="a store in Redis instead of LMDB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.redis:
            with redis_server(folder) as server:
                figures = run_writers(folder, server.url, options.rounds, options.seed)
        else:
            figures = run_writers(folder, f"lmdb:{folder / 'store'}", options.rounds, options.seed)
    harness.report("writers", figures, AIMS, options.json)


if __name__ == "__main__":
    main()

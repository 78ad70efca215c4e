"""Scores over HTTP compared with those of the model that `corank evaluate` measures, for every candidate and stage.

A world is simulated and trained, its bundle is published and served by two workers, and logged requests are sent.
`largest` is the largest difference of a probability.
"""

import argparse
import tempfile
from pathlib import Path

import corank
from benchmarks import harness
from corank.bundle.stage_facts import TOLERANCE
from corank.datasets.feed.simulate import simulate_world
from tests.support.http_parity import parity
from tests.support.service import running_service


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate_world(folder / "world", requests=max(2000, 2 * arguments.requests))
        config = folder / "world" / "config.yaml"
        run = corank.train(config, ["train.epochs=1"], folder=folder / "run").run
        corank.export(folder / "run", folder / "bundle")
        corank.publish(folder / "bundle", f"lmdb:{folder / 'store'}")
        with running_service(f"lmdb:{folder / 'store'}", folder / "cache", workers=2) as (url, _):
            figures = parity(run, url, arguments.requests)
    harness.report("http_parity", figures, {"largest": ("<=", TOLERANCE)}, arguments.json)


if __name__ == "__main__":
    main()

"""The reader of bundles in C++ against the funnel, step by step, for requests of three bundles.

`plain` is a simulated shop, trained; `features` has a feature of every kind, histories of every source, crosses,
priors and attention, with random weights; `text` is the same with ids that are text. `WORLD.STEP` is the largest
difference, of numbers beyond 1 relative.
"""

import argparse
import tempfile
from pathlib import Path

import corank
from benchmarks import harness
from corank.datasets.feed.simulate import simulate_world
from tests.support.cases import Case
from tests.support.random_worlds import LISTED
from tests.support.reference_clients import compare, cpp_client

TOLERANCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, harness.Figure] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "cpp").mkdir()
        client = cpp_client(folder / "cpp")
        for world, bundle in make_bundles(folder).items():
            cases = folder / f"{world}.jsonl"
            corank.conformance(bundle, cases, number=arguments.requests)
            differences = compare(client, bundle, cases)
            figures |= {f"{world}.{step}": value for step, value in differences.items()}
    aims = dict.fromkeys(figures, ("<=", TOLERANCE))
    harness.report("reference_clients", figures, aims, arguments.json)


def make_bundles(folder: Path) -> dict[str, Path]:
    """Write the three bundles: name → path."""
    simulate_world(folder / "plain", requests=2000)
    corank.train(folder / "plain" / "config.yaml", ["train.epochs=1"], folder=folder / "run")
    corank.export(folder / "run", folder / "bundle")
    bundles = {"plain": folder / "bundle"}
    for name, drawn in {"features": LISTED, "text": LISTED | {"text_ids": True}}.items():
        (folder / name).mkdir()
        assert Case.of(folder / name, drawn).funnel
        bundles[name] = folder / name / "bundle"
    return bundles


if __name__ == "__main__":
    main()

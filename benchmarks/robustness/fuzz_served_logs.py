"""Hostile requests are served and logged; refresh, packing and training must accept the files."""

import argparse
import shutil
import tempfile
from pathlib import Path

import yaml

import corank
from benchmarks import harness
from corank.core.errors import CorankError
from tests.support.served_logs import add_labels, learn_from, serve_hostile
from tests.support.shared import derived

PER_ROUND = 1_000


def fuzz_served_logs(cases: int, seed: int) -> dict[str, float]:
    """Serve and log so many mutated requests, and learn from each thousand of them.

    Returns `cases`, `refused` at the door, `written`, `rejected` and `dropped` by the log, and `failed`: rounds whose
    files were not accepted.
    """
    case, figures = derived(), dict.fromkeys(("refused", "written", "rejected", "dropped", "failed"), 0.0)
    assert case.funnel  # exports the bundle
    for number in range(-(-cases // PER_ROUND)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            size = min(PER_ROUND, cases - number * PER_ROUND)
            served = serve_hostile(case, folder / "served", size, seed + number)
            figures["refused"] += served.refused
            for name, requests in served.counts.items():
                figures[name] += requests
            add_labels(case, served.files, folder / "labelled.parquet", seed)
            shutil.copytree(case.base / "bundle", folder / "bundle")
            try:
                learn_from(case, folder / "labelled.parquet", folder / "bundle", folder / "packed")
                plain = case.config.model_dump(mode="json", by_alias=True)
                plain["data"]["log"] = str(folder / "labelled.parquet")
                for table in ("items", "users"):
                    plain["data"][table] = str(case.base / plain["data"][table])
                (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
                corank.train(folder / "config.yaml", ["train.epochs=1"], folder=folder / "run")
            except CorankError as error:
                print(f"round {number}: {error}")
                figures["failed"] += 1
    return {"cases": float(cases)} | figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = fuzz_served_logs(arguments.cases, arguments.seed)
    aims: dict[str, tuple[str, float]] = {"cases": (">=", 5_000), "failed": ("<=", 0), "dropped": ("<=", 0)}
    harness.report("fuzz_served_logs", figures, aims, arguments.json)


if __name__ == "__main__":
    main()

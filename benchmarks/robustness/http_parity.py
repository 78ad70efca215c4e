"""Scores over HTTP beside those of the model that `corank evaluate` judges: every candidate at every stage it reaches.

A world is simulated and trained, its bundle published and served by two workers; logged requests are sent as a service
would send them. `largest` is the largest difference of a probability.
"""

import argparse
import tempfile
from pathlib import Path

import httpx2
import numpy as np

import corank
from benchmarks import harness
from benchmarks.robustness.fuzz import served
from corank.analysis.logged_request import logged_request
from corank.analysis.study.trials import Quiet
from corank.core.calibration import Platt
from corank.datasets.simulate import simulate
from corank.evaluation.predict import predict
from corank.training.run import Run

TOLERANCE = 1e-5
"""Of a probability: docs/bundle.md#parity."""


def parity(run: Run, url: str, requests: int) -> dict[str, float]:
    """Of so many logged requests of a run, whose bundle is served at an address."""
    packed = run.packed()
    model, calibrators = run.model(packed)
    found: dict[str, float] = {"requests": 0, "scores": 0, "largest": 0.0}
    with httpx2.Client(base_url=url) as client:
        for split in ("test", "valid", "train"):
            rows = predict(model, packed, split)
            score = {
                stage: calibrated(calibrators[stage]["click"], labels["click"])
                for stage, labels in rows.logits.items()
            }
            start = rows.requests.start
            for number in range(min(len(start) - 1, requests - int(found["requests"]))):
                answer = client.post("/rank", json=logged_request(run, split, number)).json()
                here = slice(start[number], start[number + 1])
                for n, entry in enumerate(answer["trace"]):
                    for stage, served_ in entry["stages"].items():
                        gap = abs(served_["score"] - score[stage][here][n])
                        found["largest"] = max(found["largest"], float(gap))
                        found["scores"] += 1
                found["requests"] += 1
    return found


def calibrated(platt: Platt, logits: np.ndarray) -> np.ndarray:
    return platt.apply(logits.astype(np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate(folder / "world", "medium", 0, max(2000, 2 * arguments.requests))
        config = folder / "world" / "config.yaml"
        run, _ = corank.train(config, Quiet(), ["train.epochs=1"], folder=folder / "run")
        corank.export(folder / "run", folder / "bundle")
        corank.publish(folder / "bundle", f"lmdb:{folder / 'store'}")
        with served(f"lmdb:{folder / 'store'}", folder / "cache", workers=2) as (url, _):
            figures = parity(run, url, arguments.requests)
    harness.report("http_parity", figures, {"largest": ("<=", TOLERANCE)}, arguments.json)


if __name__ == "__main__":
    main()

"""Scores over HTTP compared with those of the model that `corank evaluate` judges."""

import httpx2
import numpy as np

from corank.analysis.logged_request import logged_request
from corank.core.calibration import Platt
from corank.evaluation.predict import predict_split
from corank.training.run import Run


def parity(run: Run, url: str, requests: int) -> dict[str, float]:
    """Send logged requests of a run to the service at `url` and compare every score with the model's.

    Returns:
        numbers of requests and scores, and the largest difference of a probability.
    """
    packed = run.packed()
    model, calibrators = run.model(packed)
    figures: dict[str, float] = {"requests": 0, "scores": 0, "largest": 0.0}
    with httpx2.Client(base_url=url) as client:
        for split in ("test", "valid", "train"):
            if figures["requests"] == requests:
                break
            rows = predict_split(model, packed, split)
            score = {
                stage: calibrated(calibrators[stage]["click"], labels["click"])
                for stage, labels in rows.logits.items()
            }
            start = rows.requests.start
            for number in range(min(len(start) - 1, requests - int(figures["requests"]))):
                answer = client.post("/rank", json=logged_request(run, split, number)).json()
                here = slice(start[number], start[number + 1])
                for n, entry in enumerate(answer["trace"]):
                    for stage, served_ in entry["stages"].items():
                        gap = abs(served_["score"] - score[stage][here][n])
                        figures["largest"] = max(figures["largest"], float(gap))
                        figures["scores"] += 1
                figures["requests"] += 1
    return figures


def calibrated(platt: Platt, logits: np.ndarray) -> np.ndarray:
    return platt.apply(logits.astype(np.float64))

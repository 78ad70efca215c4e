"""Whether a bundle scores requests as the run's evaluation does."""

import numpy as np
from scipy.special import expit

from corank.analysis.logged_request import logged_request
from corank.bundle.stage_facts import TOLERANCE
from corank.evaluation.predict import predict_split
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.run import Run


def assert_scored_as_evaluated(run: Run, funnel: Funnel, split: str = "test", requests: int = 10) -> None:
    """Fail unless the funnel of a run's bundle gives logged requests the probabilities that `evaluate` judges.

    Args:
        run: a finished run.
        funnel: of the bundle that `corank export` has made of it.
        split: whose requests are compared, from the first that is not earlier than the bundle's counts.
        requests: how many, at most.
    """
    packed = run.packed()
    model, _ = run.model(packed)
    predictions = predict_split(model, packed, split)
    start, time = predictions.requests.start, np.concatenate([shard.time for shard in packed.splits[split]])
    # from then on the bundle's snapshots of priors are those that requests were packed with
    since = max([0, *funnel.manifest.priors.values()])
    numbers = np.flatnonzero(time >= since)[:requests].tolist()
    assert numbers, f"no request of '{split}' is as late as the bundle's counts"
    for number in numbers:
        logits = funnel.logits(Request.parse(logged_request(run, split, number)))
        rows = slice(start[number], start[number + 1])
        for stage, labels in predictions.logits.items():
            for label, expected in labels.items():
                ours, theirs = expit(logits[stage][label]), expit(expected[rows])
                np.testing.assert_allclose(
                    ours, theirs, atol=TOLERANCE, err_msg=f"{split} {number}: {stage}.{label}"
                )

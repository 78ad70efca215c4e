"""What a quota costs: the CPU time of logged requests through an exported bundle."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request

ROUNDS = 5


def cpu_ms(
    funnel: Funnel, requests: Sequence[Request], stage: str, quotas: Sequence[int]
) -> NDArray[np.float64]:
    """Milliseconds of CPU time that `Funnel.rank` takes a request if `stage` keeps so many: (len(quotas),).

    All threads of the process count. The mean over requests of the median of five rounds; a round goes through all
    quotas, so that a slower spell of the machine falls on all of them. Raises RequestError.
    """
    times = np.empty((ROUNDS, len(requests), len(quotas)))
    for n, request in enumerate(requests):
        asked = [request.model_copy(update={"keep": {stage: keep}, "trace": False}) for keep in quotas]
        funnel.rank(asked[-1])  # the first call of a size also prepares its memory
        for times_of_round in times:
            for m, one in enumerate(asked):
                began = time.process_time_ns()
                funnel.rank(one)
                times_of_round[n, m] = (time.process_time_ns() - began) / 1e6
    milliseconds: NDArray[np.float64] = np.median(times, axis=0).mean(axis=0)
    return milliseconds

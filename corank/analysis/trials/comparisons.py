"""Differences between trainings: paired by seed, with intervals, and in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from corank.analysis.trials.figure import FEWEST_REQUESTS, Figure, replicates_of
from corank.analysis.trials.significance import Interval, mean_over_seeds

SIGN_WORDS = {1: "higher", -1: "lower", 0: "cannot tell"}
"""By the sign of a difference whose interval excludes 0; 0 if it does not."""
TOO_FEW = "too few requests"
"""The verdict on a difference that rests on fewer than `FEWEST_REQUESTS`."""
Figures = Mapping[str, Figure]


def format_difference(found: Mapping[str, Any]) -> str:
    """A difference with its interval, as text."""
    if found["low"] is None:
        return _minus(f"{found['value']:+.4f}")
    return _minus(f"{found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def differences(pairs: Sequence[tuple[Figures, Figures]]) -> dict[str, Interval]:
    """Mean difference of each metric over pairs of trials of the same seed, with intervals over users and seeds."""
    names = [name for name in pairs[0][0] if all(name in one and name in other for one, other in pairs)]
    intervals = {}
    for name in names:
        values = [one[name].value - other[name].value for one, other in pairs]
        ones, others = (replicates_of([pair[n] for pair in pairs], name) for n in (0, 1))
        intervals[name] = mean_over_seeds(values, ones - others)
    return intervals


def plain_differences(pairs: Sequence[tuple[Figures, Figures]]) -> dict[str, Any]:
    """Differences as JSON values, each with the requests that it rests on, and a verdict unless these are too few."""
    results = {}
    for name, one in differences(pairs).items():
        requests = min(figures[name].requests for pair in pairs for figures in pair)
        verdict = TOO_FEW if requests < FEWEST_REQUESTS else SIGN_WORDS[one.sign]
        results[name] = one._asdict() | {"requests": requests, "verdict": verdict}
    return results


def verdict_sentence(compared: Mapping[str, Any], metric: str, title: str) -> str:
    """A sentence that names the arms that are higher, lower, and those whose interval contains 0."""
    parts, by_arm = [], {arm: figures[metric] for arm, figures in compared.items() if metric in figures}
    if not by_arm:
        return ""
    requests = min(one["requests"] for one in by_arm.values())
    if requests < FEWEST_REQUESTS:
        return f"{title}: no verdict, since it rests on {requests} requests; {FEWEST_REQUESTS} are needed."
    for word in SIGN_WORDS.values():
        named = [f"{arm} {format_difference(one)}" for arm, one in by_arm.items() if one["verdict"] == word]
        parts += [f"{word}: {', '.join(named)}"] if named else []
    return f"{title} of {requests:,} requests, beside the config as written: {'; '.join(parts)}."

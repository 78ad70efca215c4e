"""Compares the results of a reader in another language with test cases, step by step."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corank.core.errors import RequestError
from corank.serving.conformance.cases import read_lines

STEPS = ("query", "described", "cross", "events", "probabilities", "values", "answer")
"""The compared steps of a case."""


def compare_case_files(cases: Path, found: Path) -> dict[str, float]:
    """The largest difference of each step, of all cases. Raises RequestError, which names the file."""
    most = dict.fromkeys(STEPS, 0.0)
    wanted, made = ([*read_lines(path, "case")] for path in (cases, found))
    if len(wanted) != len(made) or not wanted:
        raise RequestError(f"{found}: expected a line for each of {len(wanted):,} cases; found {len(made):,}")
    for ours, theirs in zip(map(_steps, wanted), map(_steps, made), strict=True):
        for step in STEPS:
            most[step] = max(most[step], difference(theirs[step], ours[step]))
    return most


def _steps(case: Mapping[str, Any]) -> dict[str, Any]:
    """The compared values of a case, by step; None for what it lacks.

    Logits count as probabilities: a sum of large numbers may be far from another reader's where it does not matter.
    """
    stages = _mapping(case.get("stages"))
    logits = {name: _mapping(_mapping(stage).get("logits")) for name, stage in stages.items()}
    return {
        **{step: case.get(step) for step in ("query", "described", "cross", "events")},
        "probabilities": {
            n: {label: _sigmoids(z) for label, z in by_label.items()} for n, by_label in logits.items()
        },
        "values": {name: _mapping(stage).get("values") for name, stage in stages.items()},
        "answer": _scores(case.get("answer")),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sigmoids(logits: Any) -> list[Any]:
    numbers = logits if isinstance(logits, list) else []
    return [0.5 + math.tanh(z / 2) / 2 if isinstance(z, int | float) else z for z in numbers]


def difference(found: Any, wanted: Any) -> float:
    """The largest difference of two JSON values; infinity if they are not of one form.

    Numbers beyond 1 count relative to the one that is wanted. Keys that are not wanted are left out.
    """
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return math.inf
        return max((difference(found.get(key), value) for key, value in wanted.items()), default=0.0)
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            return math.inf
        return max(map(difference, found, wanted), default=0.0)
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return abs(found - wanted) / max(1.0, abs(wanted))
    return 0.0 if found == wanted else math.inf


def _scores(answer: Any) -> Any:
    """An answer by what any reader must give alike: of equal scores another may stand first, and warnings are ours."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("items"), list):
        return None
    scores = [item.get("score") if isinstance(item, Mapping) else None for item in answer["items"]]
    return {key: value for key, value in answer.items() if key != "warnings"} | {"items": scores}

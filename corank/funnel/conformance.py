"""Test cases for readers of bundles in other languages: requests, and what the funnel makes of each, step by step.

A case has encoded rows, logits, values and the answer as plain JSON (docs/bundle-format.md). What a reader made of a
case is compared with it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from corank.core.errors import RequestError
from corank.core.files import atomic_file
from corank.core.ragged import Ragged, Rows, Vectors
from corank.evaluation.agreement import Agreement
from corank.features.encoding import RowFeatures
from corank.features.schema import Schema
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request


def write_cases(path: Path, funnel: Funnel, requests: Iterable[Mapping[str, Any]]) -> int:
    """Write a case a line, whole or not at all; returns how many. Raises RequestError, which names the request."""
    count = 0
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        for count, request in enumerate(requests, 1):
            try:
                case = make_case(funnel, request)
            except RequestError as error:
                raise RequestError(f"request {count}: {error}") from None
            file.write(json.dumps(case, ensure_ascii=False, allow_nan=False) + "\n")
    return count


def read_lines(path: Path, what: str) -> Iterator[dict[str, Any]]:
    """Read a JSON object a line, each called `what`. Raises RequestError, which names the file and the line."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                document = json.loads(line)
                if not isinstance(document, dict):
                    raise RequestError(
                        f"{path}: line {number}: expected an object; received {document!r:.100}"
                    )
                yield document
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: expected a {what} a line, in JSON: {error}") from None


def make_case(funnel: Funnel, request: Mapping[str, Any]) -> dict[str, Any]:
    """Make the case of one request, which must say its time. Raises RequestError."""
    asked = Request.parse(dict(request))
    if asked.time is None:
        raise RequestError("time: a case needs one, since scores may depend on it; write it into the request")
    encoded = funnel.encode(asked)
    described = encoded.positions[encoded.positions >= funnel.request_encoder.items.bounds[-1]]
    schema = funnel.schema
    ids, outputs, _ = funnel.predict(asked)
    return {
        "request": dict(request),
        "query": plain_rows(encoded.query, schema.row_features("query"))[0],
        "candidates": ids,
        "described": plain_rows(encoded.items.rows(described), schema.record_features),
        "cross": plain_rows(
            funnel.request_encoder.cross(encoded, encoded.everyone), schema.row_features("cross")
        ),
        "events": {
            name: {"rows": plain_rows(events.rows, _event_features(schema, name))}
            | ({} if events.ages is None else {"ages": events.ages.tolist()})
            for name, events in encoded.events.items()
        },
        "stages": {
            stage.name: {
                "logits": {label: outputs[f"logit.{stage.name}.{label}"].tolist() for label in stage.labels},
                "values": outputs[f"value.{stage.name}"].tolist(),
            }
            for stage in funnel.manifest.stages
        },
        # as if it had not arrived yet, so that no deadline passes
        "answer": funnel.run(asked, arrived=math.inf).to_answer(),
    }


def _event_features(schema: Schema, history: str) -> RowFeatures:
    """The features of an encoded event: those of its item's record, then the codes of its own attributes."""
    record = schema.record_features
    return replace(record, ids=(*record.ids, *schema.parallels_of(history)))


def plain_rows(rows: Rows, placed: RowFeatures) -> list[dict[str, Any]]:
    """Encoded rows as JSON, by the names of features.

    Returns:
        A row each: a code, a number, `{"codes", "weights"}` of a list, the numbers of a vector, None for no vector.
    """
    columns: dict[str, list[Any]] = {name: rows.ids[:, n].tolist() for n, name in enumerate(placed.ids)}
    for name, at in placed.numbers_at.items():
        numbers = rows.numbers[:, at]
        columns[name] = (numbers[:, 0] if numbers.shape[1] == 1 else numbers).tolist()
    columns |= {name: _lists(ragged) for name, ragged in zip(placed.lists, rows.lists, strict=True)}
    columns |= {name: _vectors(vectors) for name, vectors in zip(placed.vectors, rows.vectors, strict=True)}
    return [{name: values[n] for name, values in columns.items()} for n in range(len(rows))]


def _lists(lists: Ragged) -> list[dict[str, Any]]:
    flat, weight = lists.flat(), lists.flat_weight()
    last = np.cumsum(lists.length)
    return [
        {"codes": flat[a:b].tolist(), "weights": None if weight is None else weight[a:b].tolist()}
        for a, b in zip(last - lists.length, last, strict=True)
    ]


def _vectors(vectors: Vectors) -> list[list[float] | None]:
    dense = vectors.dense().tolist()
    return [None if row < 0 else values for row, values in zip(vectors.row, dense, strict=True)]


STEPS = ("query", "described", "cross", "events", "probabilities", "values", "answer")
"""The compared steps of a case."""


def compare_case_files(cases: Path, found: Path, tolerance: float) -> Agreement:
    """The differences of each step, of all cases. Raises RequestError, which names the file."""
    agreement = Agreement()
    wanted, made = ([*read_lines(path, "case")] for path in (cases, found))
    if len(wanted) != len(made) or not wanted:
        raise RequestError(f"{found}: expected a line for each of {len(wanted):,} cases; found {len(made):,}")
    for n, (ours, theirs) in enumerate(zip(map(_steps, wanted), map(_steps, made), strict=True), 1):
        for step in STEPS:
            apart = np.array([difference(theirs[step], ours[step])])
            agreement.add("", step, apart, tolerance, f"case {n}")
    return agreement


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
        apart = abs(found - wanted) / max(1.0, abs(wanted))
        return math.inf if math.isnan(apart) else apart  # json.loads takes NaN, which no maximum has
    return 0.0 if found == wanted else math.inf


def _scores(answer: Any) -> Any:
    """An answer by what any reader must give alike: of equal scores another may stand first, and warnings are ours."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("items"), list):
        return None
    scores = [item.get("score") if isinstance(item, Mapping) else None for item in answer["items"]]
    return {key: value for key, value in answer.items() if key != "warnings"} | {"items": scores}

"""Requests → cases: each with its encoded rows, logits, values and answer, as plain JSON (docs/bundle-format.md)."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corank.core.errors import RequestError
from corank.core.files import atomic_file
from corank.core.ragged import Ragged, Rows, Vectors
from corank.core.types import Longs
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request


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


def read_requests(path: Path) -> Iterator[dict[str, Any]]:
    """Read requests, a JSON object a line. Raises RequestError, which names the file and the line."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                held = json.loads(line)
                if not isinstance(held, dict):
                    raise RequestError(f"{path}: line {number}: expected an object; received {held!r:.100}")
                yield held
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: expected a request a line, in JSON: {error}") from None


def make_case(funnel: Funnel, request: Mapping[str, Any]) -> dict[str, Any]:
    """Make the case of one request, which must say its time. Raises RequestError."""
    asked = Request.parse(dict(request))
    if asked.time is None:
        raise RequestError("time: a case needs one, since scores may depend on it; write it into the request")
    encoded = funnel.encode(asked)
    everyone: Longs = np.arange(len(encoded.ids))
    described = encoded.positions[encoded.positions >= funnel.request_encoder.items.bounds[-1]]
    ids, found, _ = funnel.predict(asked)
    return {
        "request": dict(request),
        "query": plain_rows(encoded.query),
        "candidates": ids,
        "described": plain_rows(encoded.items.rows(described)),
        "cross": plain_rows(funnel.request_encoder.cross(encoded, everyone)),
        "events": {name: plain_rows(rows) for name, rows in encoded.histories.items()},
        "ages": {name: ages.tolist() for name, ages in encoded.ages.items()},
        "stages": {
            stage.name: {
                "logits": {label: found[f"logit.{stage.name}.{label}"].tolist() for label in stage.labels},
                "values": found[f"value.{stage.name}"].tolist(),
            }
            for stage in funnel.manifest.stages
        },
        # as if it had not arrived yet, so that no deadline passes
        "answer": funnel.run(asked, arrived=math.inf).to_answer(),
    }


def plain_rows(rows: Rows) -> dict[str, Any]:
    """Encoded rows as JSON: of ids and numbers a list a row, of lists and vectors a list a feature."""
    return {
        "ids": rows.ids.tolist(),
        "numbers": rows.numbers.tolist(),
        "lists": [_split(held, held.flat()) for held in rows.lists],
        "weights": [None if (w := held.flat_weight()) is None else _split(held, w) for held in rows.lists],
        "vectors": [_vectors(held) for held in rows.vectors],
    }


def _split(lists: Ragged, flat: Any) -> list[list[Any]]:
    parts = np.split(flat, np.cumsum(lists.length)[:-1])
    return [part.tolist() for part in parts[: len(lists.length)]]


def _vectors(vectors: Vectors) -> list[list[float] | None]:
    dense = vectors.dense().tolist()
    return [None if row < 0 else values for row, values in zip(vectors.row, dense, strict=True)]

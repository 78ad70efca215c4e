"""The fields of an answer, which a request may choose from."""

from typing import Any, Literal, get_args

from corank.core.errors import RequestError
from corank.core.settings import describe_unknown

AnswerField = Literal[
    "model_version",
    "items_seq",
    "items_id",
    "stage",
    "items",
    "ids",
    "scores",
    "unknown",
    "missing",
    "warnings",
    "fallback",
    "trace",
    "user",
    "role",
    "served_id",
    "microseconds",
]
"""A part of an answer. `ids` are the ids of `items` alone; `scores` adds to each item the scores of all stages."""
ANSWER_FIELDS: tuple[str, ...] = get_args(AnswerField)
DEFAULT_FIELDS = frozenset(ANSWER_FIELDS) - {"ids", "scores", "trace", "microseconds"}
"""Of a request that chooses none; `warnings` and `fallback` are there if there is something to say, `served_id` if the
request is logged."""


def check_fields(fields: Any) -> None:
    """Raise RequestError unless `fields` is a list of fields of an answer."""
    if type(fields) is not list:
        raise RequestError(f"fields: expected a list of names; received {fields!r:.100}")
    for name in fields:
        if name not in ANSWER_FIELDS:
            raise RequestError(f"fields: {describe_unknown(name, ANSWER_FIELDS, 'field')}")

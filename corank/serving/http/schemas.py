"""What the service takes: types and bounds of every body, checked while it is read.

Values are text, finite numbers, true, false, null, or lists of these: so depth is bounded, too.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from corank.core.errors import RequestError
from corank.serving.funnel.request import Request

Text = Annotated[str, Meta(max_length=4096)]
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Scalar = Whole | float | Text | bool | None
Event = Scalar | dict[Text, Scalar]
"""Of a history: an id, or an id and a time."""
Column = Scalar | list[Event]
Columns = dict[Text, Column]

T = TypeVar("T")

CANDIDATES = 10_000
ITEMS = 10_000
VALUES = 4096
"""Most of each."""


class Rank(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A request to rank: docs/bundle.md tells its fields."""

    user: Annotated[dict[Text, Column], Meta(max_length=VALUES)]
    candidates: Annotated[list[Whole | Text | Columns], Meta(min_length=1, max_length=CANDIDATES)] | None = (
        None
    )
    retrieve: Annotated[int, Meta(ge=1, le=CANDIDATES)] | None = None
    where: Annotated[dict[Text, Scalar | list[Scalar]], Meta(max_length=64)] = {}
    context: Annotated[dict[Text, Column], Meta(max_length=VALUES)] = {}
    time: Whole | Text | None = None
    keep: Annotated[dict[Text, Annotated[int, Meta(ge=1, le=2**31)]], Meta(max_length=64)] = {}
    trace: bool = False

    def request(self, user: dict[str, Any]) -> Request:
        """With what is known of the user."""
        # every field has its type: validated once
        return Request.model_construct(
            user=user,
            context=self.context,
            time=self.time,
            candidates=self.candidates,
            retrieve=self.retrieve,
            where=self.where,
            keep=self.keep,
            trace=self.trace,
        )


class Items(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Items to put in: `id`, and all columns of each; one that is left out is missing from then on."""

    items: Annotated[list[Columns], Meta(min_length=1, max_length=ITEMS)]

    def rows(self) -> list[dict[str, Any]]:
        """Raises RequestError for an item without an id, or one that is there twice."""
        ids = set()
        for n, row in enumerate(self.items):
            id_ = row.get("id")
            if type(id_) not in (int, str):
                raise RequestError(f"items.{n}: needs an `id`, a whole number or text; received {id_!r}")
            if id_ in ids:
                raise RequestError(f"items.{n}: {id_!r} is there twice; give each item once")
            ids.add(id_)
        return list(self.items)


_rank = msgspec.json.Decoder(Rank)
_items = msgspec.json.Decoder(Items)


def rank(body: bytes) -> Rank:
    """Raises RequestError, which names the field."""
    return _decoded(_rank, body)


def items(body: bytes) -> Items:
    """Raises RequestError, which names the field."""
    return _decoded(_items, body)


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(f"body: {error}") from None

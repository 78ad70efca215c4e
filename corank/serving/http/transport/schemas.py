"""The bodies that the service reads; types and bounds are checked while they are decoded."""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from corank.bundle.manifest import BundleManifest
from corank.core.errors import RequestError
from corank.serving.funnel.request import Columns, Request

T = TypeVar("T")

MAX_ITEMS = 10_000
MAX_PARTS, MAX_OBJECTS = 250_000, 25_000
"""Values and objects of a body, by its commas and braces, those within texts included."""


class Items(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Items to insert or replace: `id` and all columns of each; a column that is left out is missing from then on."""

    items: Annotated[list[Columns], Meta(min_length=1, max_length=MAX_ITEMS)]

    def rows(self) -> list[dict[str, Any]]:
        """The items' columns. Raises RequestError for an item that has no id, or is given twice."""
        ids = set()
        for n, row in enumerate(self.items):
            id_ = row.get("id")
            if type(id_) not in (int, str):
                raise RequestError(f"items.{n}: needs an `id`, a whole number or text; received {id_!r}")
            if id_ in ids:
                raise RequestError(f"items.{n}: {id_!r} is there twice; give each item once")
            ids.add(id_)
        return list(self.items)


_request_decoder = msgspec.json.Decoder(Request)
_items_decoder = msgspec.json.Decoder(Items)


def decode_request(body: bytes) -> Request:
    """Decode the body of /rank. Raises RequestError, which names the field."""
    return _decode(_request_decoder, body)


def check_quotas(request: Request, manifest: BundleManifest) -> None:
    """Raise RequestError if a request asks a stage to keep more than the bundle does, which takes more time."""
    quotas = {stage.name: stage.keep for stage in manifest.stages}
    for stage, keep in request.keep.items():
        if keep > quotas.get(stage, keep):
            raise RequestError(
                f"keep.{stage}: expected {quotas[stage]} or less, as the bundle says; received {keep}"
            )


def decode_items(body: bytes) -> Items:
    """Decode the body of /items. Raises RequestError, which names the field."""
    return _decode(_items_decoder, body)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    # counted ahead, which is a hundred times as fast as to decode millions of values and then refuse them
    for mark, most, what in ((b",", MAX_PARTS, "values"), (b"{", MAX_OBJECTS, "objects")):
        if (count := body.count(mark)) > most:
            raise RequestError(f"body: expected {most:,} {what} or fewer; received {count:,}")
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(f"body: {error}") from None

"""The bodies that the service reads; types and bounds are checked while they are decoded."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from corank.bundle.manifest import BundleManifest
from corank.core.errors import RequestError
from corank.serving.funnel.request import Columns, Request

MAX_ITEMS = 10_000
MAX_BATCH = 32
"""Requests of a batch."""


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


class RequestBatch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Requests that one version answers, each decoded on its own, so that one that is invalid spoils no other."""

    requests: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_BATCH)]


def check_quotas(request: Request, manifest: BundleManifest) -> None:
    """Raise RequestError if a request asks a stage to keep more than the bundle does, which takes more time."""
    if not request.keep:
        return
    quotas = {stage.name: stage.keep for stage in manifest.stages}
    for stage, keep in request.keep.items():
        if keep > quotas.get(stage, keep):
            raise RequestError(
                f"keep.{stage}: expected {quotas[stage]} or less, as the bundle says; received {keep}"
            )

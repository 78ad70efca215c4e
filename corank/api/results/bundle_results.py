"""The results of `export`, `refresh` and `publish`."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import polars as pl

from corank.api.results.document_result import DocumentResult, frame
from corank.bundle.bundle import Bundle
from corank.bundle.retrieval import RetrievalFacts
from corank.core.storage.object_url import Location
from corank.serving.store.changes.merged_items import MergedItems

_MERGED = ("kept", "overridden", "lacking")


@dataclass(frozen=True, eq=False, repr=False)
class BundleResult(DocumentResult):
    """A bundle that was written.

    Example:
        >>> exported = corank.export("shop/runs/shop", "exported")
        >>> exported.tables["stages"]["stage"].to_list()
        ['prerank', 'rank']
        >>> exported.bundle.manifest.model_version == exported["model_version"]
        True
    """

    bundle: Bundle = field(kw_only=True)
    """The bundle, opened; `corank.Funnel.open` takes its location."""
    location: Location = field(kw_only=True)
    """Its folder, or its URL."""

    @classmethod
    def of(cls, bundle: Bundle, location: Location) -> Self:
        """The result of what was written at a location."""
        manifest, facts = bundle.manifest, RetrievalFacts.read(bundle.folder)
        loss = manifest.precision_loss
        document = {
            "bundle": str(location),
            "name": manifest.name,
            "model_version": manifest.model_version,
            "items_seq": manifest.items_seq,
            "content": manifest.content,
            "stages": [stage.name for stage in manifest.stages],
            "priors": dict(manifest.priors),
            "signed_by": [signature.key for signature in manifest.signatures],
            "precision_loss": loss and loss.model_dump(mode="json"),
            "retrieval": None if facts is None else facts.model_dump(mode="json"),
            "parts": {name: part.bytes for name, part in manifest.parts.items()},
        }
        return cls(document, bundle=bundle, location=location)

    @property
    def headline(self) -> str:
        """Location and version of the bundle."""
        document = self.document
        return f"{document['bundle']}: model {document['model_version']}, items {document['items_seq']}"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`stages`: what each computes; `parts`: bytes of each file; `priors`: the time of the log, UTC, that each
        knows."""
        manifest = self.bundle.manifest
        stages = [
            {"stage": s.name, "scorer": s.scorer, "keep": s.keep, "value": str(s.value)}
            for s in manifest.stages
        ]
        priors = [{"feature": name, "until": until} for name, until in manifest.priors.items()]
        parts = [{"part": name, "bytes": size} for name, size in self.document["parts"].items()]
        return {
            "stages": pl.DataFrame(stages),
            "parts": frame(parts, {"part": pl.String, "bytes": pl.Int64}),
            "priors": frame(priors, {"feature": pl.String, "until": pl.Int64}),
        }


@dataclass(frozen=True, eq=False, repr=False)
class PublishResult(DocumentResult):
    """A version of a store that is live now.

    Example:
        >>> published = corank.publish("bundle", "lmdb:store")
        >>> published.version == published["version"], published.tables["items"].columns
        (True, ['item', 'became'])
    """

    version: str = field(kw_only=True)
    """Its name, as `corank.roll_back` takes it."""

    @classmethod
    def of(cls, version: str, merged: MergedItems | None) -> Self:
        """The result of a publication.

        Args:
            version: its name.
            merged: what became of items that were upserted before; None if the version was live already.
        """
        return cls({"version": version} if merged is None else asdict(merged), version=version)

    @property
    def headline(self) -> str:
        """The version, and how many items were upserted before."""
        counts = [f"{len(self.document[name])} {name}" for name in _MERGED if self.document.get(name)]
        return ", ".join([f"{self.version} is live", *counts])

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`items`: what became of each item that was upserted before: `kept` on top, `overridden` by the table, or
        `lacking` in it."""
        rows: list[dict[str, Any]] = [
            {"item": str(item), "became": name} for name in _MERGED for item in self.document.get(name, ())
        ]
        return {"items": frame(rows, {"item": pl.String, "became": pl.String})}

"""The result of `pack`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from corank.api.results.document_result import PlottedResult
from corank.core.extras import name_missing_extra
from corank.data.dataset import PackedDataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class PackResult(PlottedResult):
    """Packed data, and how much they hold.

    Example:
        >>> result = corank.pack("shop/config.yaml")
        >>> result.tables["splits"].columns
        ['split', 'requests', 'candidates', 'shards']
        >>> str(result.packed.location), sum(result["levels"].values())
        ('shop/packed/shop', 36000)
    """

    packed: PackedDataset = field(kw_only=True)
    """The memory-mapped arrays."""

    @classmethod
    def of(cls, packed: PackedDataset) -> Self:
        """The result of a packing, from its manifest."""
        manifest = packed.manifest
        splits: dict[str, Any] = {
            split: {
                "requests": sum(shard.requests for shard in shards),
                "candidates": sum(shard.candidates for shard in shards),
                "shards": len(shards),
            }
            for split, shards in manifest.splits.items()
        }
        document = {
            "packed": str(packed.location),
            "splits": splits,
            "levels": manifest.levels,
            "dropped": manifest.dropped,
            "features": list(manifest.features),
            "bytes": sum(manifest.files.values()),
            "grown": {name: rows.model_dump() for name, rows in manifest.grown.items()},
        }
        return cls(document, packed=packed)

    @property
    def headline(self) -> str:
        """Location and size of the data."""
        candidates = sum(counts["candidates"] for counts in self.document["splits"].values())
        return (
            f"{self.document['packed']}: {candidates:,} candidates, {self.document['bytes'] / 2**20:,.1f} MiB"
        )

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`splits`: requests, candidates and shards; `levels`: candidates; `dropped`: rows that were left out, by
        reason; `embeddings`: rows of each table that training learns; `grown`, with `--from`: what is new and gone."""
        document = self.document
        sizes = self.packed.encoders.sizes
        counts = {"levels": ("level", "candidates"), "dropped": ("reason", "rows")}
        named = {
            name: pl.DataFrame({key: list(document[name]), value: list(document[name].values())})
            for name, (key, value) in counts.items()
        }
        return {
            "splits": pl.DataFrame([{"split": name, **row} for name, row in document["splits"].items()]),
            **named,
            "embeddings": pl.DataFrame({"table": list(sizes), "rows": list(sizes.values())}),
            **self._grown(),
        }

    def _grown(self) -> dict[str, pl.DataFrame]:
        rows = [{"feature": name, **grown} for name, grown in self.document["grown"].items()]
        types = {"feature": pl.String, "admitted": pl.Int64, "evicted": pl.Int64, "free": pl.Int64}
        return {"grown": pl.DataFrame(rows, schema=types)} if rows else {}

    def plot(self) -> "Figure":
        """Draw the requests and candidates of each split, and the candidates of each level."""
        with name_missing_extra("plot()"):
            from corank.api.results.figures import draw_bars

        document = self.document
        panels = {
            what: {split: {what: int(counts[what])} for split, counts in document["splits"].items()}
            for what in ("requests", "candidates")
        }
        levels = {level: {"candidates": int(n)} for level, n in document["levels"].items()}
        return draw_bars(panels | {"candidates by level": levels})

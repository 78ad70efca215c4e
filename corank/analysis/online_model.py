"""The parts of a funnel that encode a request and look tables up, made of a trained model without graphs on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.matrices.stored_matrix import StoredMatrix
from corank.core.ragged import Rows
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.evaluation.stage_order import Calibrators
from corank.features.input_layout import Layout, TableSet
from corank.features.schema import Schema
from corank.models.joint import JointModel
from corank.serving.funnel.request_encoder import RequestEncoder
from corank.training.config import Config
from corank.training.export import make_manifest


class TableReader(Protocol):
    """Looks up embedding tables."""

    @property
    def layout(self) -> Layout:
        """Of dense inputs."""

    @property
    def tables(self) -> Mapping[str, TableSet]:
        """By name of the set."""


class OnlineModel(Protocol):
    """A model that latencies of features are measured on: a `Funnel`, or `EncodingModel`."""

    @property
    def manifest(self) -> BundleManifest:
        """Of the bundle."""

    @property
    def schema(self) -> Schema:
        """Its features."""

    @property
    def request_encoder(self) -> RequestEncoder:
        """Encodes requests."""

    @property
    def scorer(self) -> TableReader:
        """Looks tables up."""


@dataclass(frozen=True)
class ModelTables:
    """The embedding tables and projections of a model."""

    layout: Layout
    tables: dict[str, TableSet]

    @classmethod
    def of(cls, model: JointModel) -> Self:
        """Those of a model on the processor; not copied."""
        table_sets: dict[str, TableSet] = {}
        for name, tables in model.table_sets.items():
            matrices: dict[int | str, Floats] = {
                dim: tables.weights[str(dim)].detach().numpy() for dim in model.layout.table_rows
            }
            matrices |= {
                feature: model.projection(name, feature).detach().numpy()
                for feature in model.layout.projections
            }
            table_sets[name] = matrices
        return cls(model.layout, table_sets)


@dataclass(frozen=True)
class EncodingModel:
    """A model that encodes requests and looks tables up as its bundle does; it cannot rank."""

    manifest: BundleManifest
    request_encoder: RequestEncoder
    scorer: ModelTables

    @property
    def schema(self) -> Schema:
        """The model's features."""
        return self.manifest.declared

    @classmethod
    def of(cls, config: Config, packed: PackedDataset, model: JointModel, calibrators: Calibrators) -> Self:
        """Make one of a trained model, with priors and items at the log's end."""
        model = model.cpu().eval()
        priors = packed.priors.as_of(packed.schema, packed.manifest.last)
        manifest = make_manifest(config, packed, model, calibrators, priors)
        records = ItemRecords.of_packed(packed, priors, *packed.newest_items())
        columns = [stage.ordering(config.data.columns).names for stage in config.stages]
        encoder = RequestEncoder(
            manifest,
            packed.encoders,
            LayeredItems((ItemLayer(records, {}),)),
            priors,
            {name for names in columns for name in names},
            _no_parts,
        )
        return cls(manifest, encoder, ModelTables.of(model))


def _no_parts(rows: Rows) -> dict[str, StoredMatrix]:
    """Logged requests describe no items, whose parts would be needed."""
    return {}

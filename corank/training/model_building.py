"""A config's model, before it has learnt."""

from corank.data.log_rows import LAST_POSITION
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.models.joint import JointModel
from corank.models.tables.builder import TableBuilder
from corank.training.config.config import Config


def build_model(config: Config, packed: PackedDataset, ranks: Ranks | None = None) -> JointModel:
    """Build the model of a config: tables drawn by `train.seed`, layers by torch's seed.

    Args:
        config: of the run.
        packed: the data, whose vocabularies the tables have rows for.
        ranks: the processes over which the tables may be sharded; this one alone by default.
    """
    layout = Layout(packed.schema, packed.encoders.sizes)
    sets = {n.name if n.embeddings == "own" else "shared" for n in config.networks.values()}
    weights = len(sets) * sum(rows * dim for dim, rows in layout.table_rows.items())
    tables = TableBuilder(config.train.seed, ranks or Ranks(), config.train.shards_tables(weights))
    return _build(config, layout, tables)


def build_networks(config: Config, encoders: Encoders) -> JointModel:
    """Build the model of a config with tables that have no rows."""
    return _build(config, Layout(encoders.schema, encoders.sizes), TableBuilder(empty=True))


def _build(config: Config, layout: Layout, tables: TableBuilder) -> JointModel:
    positions = LAST_POSITION + 1 if config.data.position else 0
    parameters = config.total.parameters()
    return JointModel(config.stages, layout, config.teachers, positions, tables, parameters)

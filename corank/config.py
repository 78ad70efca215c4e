"""The parts of a config as classes, to build a config in code with completion; and configs read from YAML and written.

Each part has the keys of the YAML, and its docstrings are those of the reference. Parts of a plug-in are the classes
that its module defines.

Example:
    >>> from corank import config
    >>> written = config.read_config("shop/config.yaml")
    >>> stage = config.MlpSettings(name="rank", keep=6, value="click", hidden=[16, 8], cuts=["ranked"])
    >>> changed = written.model_copy(update={"stages": [written.stages[0], stage]})
    >>> config.recheck(changed) == changed, config.recheck(changed).stages[1].hidden
    (True, [16, 8])
    >>> print(config.to_yaml(changed).splitlines()[0])
    name: shop
"""

from collections.abc import Mapping, Sequence
from typing import Any

from corank.api.config_source import ConfigSource, OpenedConfig, to_yaml
from corank.core.vector_search import RetrievalSettings
from corank.features.kinds.age import AgeFeature, TimeFeature
from corank.features.kinds.arithmetic import ProductFeature, RatioFeature
from corank.features.kinds.bucket import BucketFeature
from corank.features.kinds.candidates import CandidatesFeature
from corank.features.kinds.cosine import CosineFeature
from corank.features.kinds.count import ContainsFeature, CountFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.number import NumberFeature
from corank.features.kinds.pair import PairFeature
from corank.features.kinds.prior import PriorFeature
from corank.features.kinds.vector import VectorFeature
from corank.features.kinds.within import WithinFeature
from corank.features.log_schema import DataSettings, EventTable, Label, ListLog, Score
from corank.features.split import ColumnSplit, RangeSplit, ShareSplit, TimeRange, TimeSplit, UserSplit
from corank.losses.settings.cascade import CascadeLoss
from corank.losses.settings.click import ClickLoss
from corank.losses.settings.distill import DistillLoss
from corank.losses.settings.in_batch import InBatchLoss
from corank.losses.settings.info_nce import InfoNceLoss
from corank.losses.settings.levels import LevelsLoss
from corank.losses.settings.listwise import ListwiseLoss
from corank.losses.settings.mimic import MimicLoss
from corank.losses.settings.pairwise import PairwiseLoss
from corank.losses.settings.pseudo_label import PseudoLabelLoss
from corank.losses.settings.rankflow import RankFlowLoss
from corank.losses.settings.unexposed import UnexposedLoss
from corank.models.settings.dcn import DcnSettings
from corank.models.settings.din import DinSettings
from corank.models.settings.inputs.gates import GateSettings
from corank.models.settings.inputs.numbers import PeriodicNumbers, PiecewiseNumbers
from corank.models.settings.mixtures.experts import ExpertSettings
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.sequence_encoder import SequenceEncoderSettings
from corank.models.settings.table_optimiser import TableOptimiser
from corank.models.settings.teacher import TeacherSettings
from corank.models.settings.tower_structures import TowersHeadsSettings, TowersMlpSettings
from corank.models.settings.trees import TreesSettings
from corank.models.settings.two_tower import QueryTower, TowersSettings
from corank.training.config.config import Config
from corank.training.config.config_file import plain
from corank.training.config.settings import (
    DenseOptimiser,
    DriftSettings,
    EarlyStop,
    ExportSettings,
    TrainSettings,
    TreeTeacherSettings,
)

__all__ = [
    "AgeFeature",
    "BucketFeature",
    "CandidatesFeature",
    "CascadeLoss",
    "ClickLoss",
    "ColumnSplit",
    "Config",
    "ContainsFeature",
    "CosineFeature",
    "CountFeature",
    "DataSettings",
    "DcnSettings",
    "DenseOptimiser",
    "DinSettings",
    "DistillLoss",
    "DriftSettings",
    "EarlyStop",
    "EventTable",
    "ExpertSettings",
    "ExportSettings",
    "GateSettings",
    "IdFeature",
    "IdsFeature",
    "InBatchLoss",
    "InfoNceLoss",
    "Label",
    "LevelsLoss",
    "ListLog",
    "ListwiseLoss",
    "MimicLoss",
    "MlpSettings",
    "NumberFeature",
    "PairFeature",
    "PairwiseLoss",
    "PeriodicNumbers",
    "PiecewiseNumbers",
    "PriorFeature",
    "ProductFeature",
    "PseudoLabelLoss",
    "QueryTower",
    "RangeSplit",
    "RankFlowLoss",
    "RatioFeature",
    "RetrievalSettings",
    "Score",
    "SequenceEncoderSettings",
    "ShareSplit",
    "TableOptimiser",
    "TeacherSettings",
    "TimeFeature",
    "TimeRange",
    "TimeSplit",
    "TowersHeadsSettings",
    "TowersMlpSettings",
    "TowersSettings",
    "TrainSettings",
    "TreeTeacherSettings",
    "TreesSettings",
    "UnexposedLoss",
    "UserSplit",
    "VectorFeature",
    "WithinFeature",
    "plain",
    "read_config",
    "recheck",
    "to_yaml",
]


def read_config(config: ConfigSource, overrides: Sequence[str] = (), without: Sequence[str] = ()) -> Config:
    """Read a config, without its tables.

    Args:
        config: a YAML file, a mapping of the same keys, or a Config.
        overrides: `a.b=value` changes, as of `--set`.
        without: features to remove, and what is made of them.

    Raises ConfigError, which names the key, what was received and what is expected; PluginError.

    Example:
        >>> corank.config.read_config("shop/config.yaml", ["train.epochs=3"]).train.epochs
        3
    """
    return OpenedConfig.open(config, overrides, without).settings


def recheck(config: Mapping[str, Any] | Config) -> Config:
    """Check a config that was built or changed in code, as reading it would.

    `model_copy` of pydantic checks nothing; every function of corank that takes a config checks it by this.

    Raises ConfigError.
    """
    return read_config(config)

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
from typing import TYPE_CHECKING, Any

from corank.api.config_source import ConfigSource, OpenedConfig
from corank.api.config_source import to_yaml as to_yaml
from corank.core.page import PageRule as PageRule
from corank.core.page import PageSettings as PageSettings
from corank.core.vector_search import RetrievalSettings as RetrievalSettings
from corank.features.kinds.age import AgeFeature as AgeFeature
from corank.features.kinds.age import TimeFeature as TimeFeature
from corank.features.kinds.arithmetic import ProductFeature as ProductFeature
from corank.features.kinds.arithmetic import RatioFeature as RatioFeature
from corank.features.kinds.bucket import BucketFeature as BucketFeature
from corank.features.kinds.candidates import CandidatesFeature as CandidatesFeature
from corank.features.kinds.cosine import CosineFeature as CosineFeature
from corank.features.kinds.count import ContainsFeature as ContainsFeature
from corank.features.kinds.count import CountFeature as CountFeature
from corank.features.kinds.id import IdFeature as IdFeature
from corank.features.kinds.ids import IdsFeature as IdsFeature
from corank.features.kinds.number import NumberFeature as NumberFeature
from corank.features.kinds.pair import PairFeature as PairFeature
from corank.features.kinds.prior import PriorFeature as PriorFeature
from corank.features.kinds.share import ShareFeature as ShareFeature
from corank.features.kinds.since import SinceFeature as SinceFeature
from corank.features.kinds.vector import VectorFeature as VectorFeature
from corank.features.kinds.within import WithinFeature as WithinFeature
from corank.features.log_schema import DataSettings as DataSettings
from corank.features.log_schema import EventTable as EventTable
from corank.features.log_schema import Label as Label
from corank.features.log_schema import ListLog as ListLog
from corank.features.log_schema import Satiation as Satiation
from corank.features.log_schema import Score as Score
from corank.features.split import ColumnSplit as ColumnSplit
from corank.features.split import RangeSplit as RangeSplit
from corank.features.split import ShareSplit as ShareSplit
from corank.features.split import TimeRange as TimeRange
from corank.features.split import TimeSplit as TimeSplit
from corank.features.split import UserSplit as UserSplit
from corank.losses.cascade import CascadeLoss as CascadeLoss
from corank.losses.click import ClickLoss as ClickLoss
from corank.losses.distill import DistillLoss as DistillLoss
from corank.losses.in_batch import InBatchLoss as InBatchLoss
from corank.losses.info_nce import InfoNceLoss as InfoNceLoss
from corank.losses.levels import LevelsLoss as LevelsLoss
from corank.losses.lists import ListwiseLoss as ListwiseLoss
from corank.losses.lists import PairwiseLoss as PairwiseLoss
from corank.losses.unexposed import UnexposedLoss as UnexposedLoss
from corank.models.settings.mlp import DcnSettings as DcnSettings
from corank.models.settings.mlp import DinSettings as DinSettings
from corank.models.settings.mlp import MlpSettings as MlpSettings
from corank.models.settings.mlp import TeacherSettings as TeacherSettings
from corank.models.settings.trees import TreesSettings as TreesSettings
from corank.models.settings.two_tower import QueryTower as QueryTower
from corank.models.settings.two_tower import TowersSettings as TowersSettings
from corank.training.config.config import Config as Config
from corank.training.config.config_file import plain as plain
from corank.training.config.settings import DenseOptimiser as DenseOptimiser
from corank.training.config.settings import DriftSettings as DriftSettings
from corank.training.config.settings import EarlyStop as EarlyStop
from corank.training.config.settings import ExportSettings as ExportSettings
from corank.training.config.settings import TableOptimiser as TableOptimiser
from corank.training.config.settings import TrainSettings as TrainSettings
from corank.training.config.settings import TreeTeacherSettings as TreeTeacherSettings


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


if not TYPE_CHECKING:  # type checkers take a name that is imported as itself for public
    __all__ = sorted(
        name
        for name, value in globals().items()
        if getattr(value, "__module__", "").startswith("corank.") and value is not OpenedConfig
    )

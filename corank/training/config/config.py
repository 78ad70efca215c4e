"""One frozen, checked config: each part checks itself against the others; here they are listed and called in order.

How long a config trains and in batches of what size, where it says `auto`: by the number of training requests.

The moments that a split by shares means in a config's log.
"""

from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from corank.core.errors import ConfigError, DataError
from corank.core.page import PAGE, PageSettings
from corank.core.registry import by_name
from corank.core.settings import Settings, build_once, describe_unknown, validate
from corank.core.time import EARLIEST, LATEST
from corank.core.vector_search import RetrievalSettings
from corank.data.log_rows import scan_log
from corank.data.packed.dataset import PackedDataset
from corank.features.feature_kind import Feature
from corank.features.log_schema import DataSettings
from corank.features.page_columns import check_page, mark_page_features
from corank.features.schema import Schema
from corank.features.split import ShareSplit, TimeSplit
from corank.losses.base import LOSSES, FunnelSpec, Loss
from corank.losses.total import TotalLoss
from corank.models.settings.mlp import TeacherSettings
from corank.models.settings.network import (
    NAMES_OF_TORCH,
    NetworkSettings,
    StageContext,
    check_separate_tables,
    check_tables,
)
from corank.models.settings.stage import Stage, StageSettings
from corank.training.config.settings import (
    AUTO,
    DriftSettings,
    EarlyStop,
    ExportSettings,
    TrainSettings,
    TreeTeacherSettings,
)


def _take_page(config: Any) -> Any:
    """Plain values of a config whose page, the last stage, is apart, and its features marked. Raises ConfigError."""
    if not isinstance(config, dict):
        return config
    if isinstance(config.get("page"), dict):
        raise ConfigError("page: a page is the last of `stages`; write it there, with model: page")
    stages: Any = config.get("stages")
    pages = [n for n, stage in enumerate(stages) if _is_page(stage)] if isinstance(stages, list) else []
    if not pages:
        return config
    key, plain = f"stages.{pages[0]}", stages[pages[0]]
    if pages[0] != len(stages) - 1:
        raise ConfigError(f"{key}: a page is the last stage; nothing can follow it")
    if len(stages) == 1:
        raise ConfigError(f"{key}: a page orders what a stage before it scores; write one before it")
    try:
        page = plain if isinstance(plain, PageSettings) else validate(PageSettings, plain, key)
    except ConfigError as error:
        lines = (line.removeprefix(f"{key}: ") for line in str(error).split("\n"))
        named = (f": {line[len(_WHOLE) :]}" if line.startswith(_WHOLE) else f".{line}" for line in lines)
        raise ConfigError("\n".join(f"{key}{line}" for line in named)) from None
    features = config.get("features")
    if isinstance(features, dict):
        config = config | {"features": mark_page_features(features, page)}
    return config | {"stages": stages[:-1], "page": page}


_WHOLE = "(top level): "
"""Begins what `validate` says of settings as a whole."""


def _is_page(stage: Any) -> bool:
    return isinstance(stage, PageSettings) or (isinstance(stage, dict) and stage.get("model") == PAGE)


TAKEN = {"shared", "position", *TrainSettings.model_fields, *NAMES_OF_TORCH}
"""Names that no stage may have: of shared tables, of positions, of `train`'s keys, and those that torch keeps."""


MOST_STAGES, MOST_LOSSES = 16, 100
"""Stages, teachers and losses of a config, at most: their checks take time by the square."""
_declared = build_once(Schema)


class Config(Settings):
    """Everything that a run depends on: what a YAML config says, as one checked object of typed parts.

    `corank.config` has the classes of the parts, and reads and writes YAML. Raises ConfigError if the parts contradict
    each other.

    Example:
        >>> config = corank.config.read_config("shop/config.yaml")
        >>> [stage.name for stage in config.stages], config.train.epochs
        (['prerank', 'rank'], 2)
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Names `packed/NAME` and `runs/NAME` next to the config."""
    plugins: list[str] = []
    """Python modules that register parts of the user's own, from the Python path or the config's folder."""
    packed: str | None = Field(None, min_length=1)
    """The folder of the packed data, or its URL in object storage; `packed/NAME` next to the config by default."""
    data: DataSettings
    """The tables and columns of the log."""
    known_before: list[str] = []
    """Columns of the log that are known before a request is ranked, although they look like its outcome; `check` and
    `train` refuse features of others that do."""
    features: dict[str, Feature] = Field(min_length=1)
    """The inputs of the networks, by name."""
    stages: list[Stage] = Field(min_length=1, max_length=MOST_STAGES)
    """In the order of the cascade, the first to cut first."""
    page: PageSettings | None = Field(None, exclude=True)
    """The last of `stages` if it is of `model: page`, which is not trained; no key of its own. Experimental."""
    teachers: list[TeacherSettings] = Field([], max_length=MOST_STAGES)
    """Networks that are trained to teach the stages, and are not served."""
    tree_teachers: list[TreeTeacherSettings] = Field([], max_length=MOST_STAGES)
    """Boosted trees that are fitted before training to teach the stages, and are not served."""
    losses: list[Annotated[Loss, *by_name(LOSSES, "kind")]] = Field(min_length=1, max_length=MOST_LOSSES)
    """The losses of the stages; the total is their weighted sum."""
    retrieval: RetrievalSettings | None = None
    """Lets the bundle find candidates itself."""
    train: TrainSettings = TrainSettings()
    """How the networks learn."""
    baseline: bool = False
    """Whether `corank train` ends with a comparison of the last stage with boosted trees on the same rows; importers
    write true. Needs the extra `trees`, without which nothing is compared."""
    export: ExportSettings = ExportSettings()
    """How the bundle stores what is computed of every item ahead of requests."""
    drift: DriftSettings = DriftSettings()
    """How far new rows may be from those of an earlier run, for `corank check --against`."""

    @property
    def declared(self) -> Schema:
        """The features, with the side and the table of each."""
        return _declared(self.features)

    @property
    def total(self) -> TotalLoss:
        """The sum of the losses, with the names that they may use."""
        funnel = FunnelSpec(
            levels=self.data.levels,
            labels=list(self.data.labels),
            stages={stage.name: list(stage.labels) for stage in [*self.stages, *self.teachers]},
            keep={stage.name: stage.keep for stage in self.stages},
            with_vectors=self.vector_stages,
            extras={stage.name: stage.extras for stage in self.stages if stage.extras},
            scores=[*self.data.scores, *(teacher.name for teacher in self.tree_teachers)],
            levelled=self.data.level is not None,
            members={
                network.name: network.member_count
                for network in self.networks.values()
                if network.member_count
            },
            logged_inputs=self._logged_inputs(),
            everywhere=self.data.everywhere,
            item_ids=self.declared.row_features("item").ids,
        )
        return TotalLoss(self.losses, funnel)

    def _logged_inputs(self) -> dict[str, list[str]]:
        """Stage or teacher → what it reads, itself or by the stages that it sees, that only logged pairs have."""
        logged = {network.name: network.logged_inputs(self.declared) for network in self.networks.values()}
        for stage in self.stages:
            for seen, _ in stage.earlier():
                logged[stage.name] = list(dict.fromkeys([*logged[stage.name], *logged.get(seen, [])]))
        return {name: inputs for name, inputs in logged.items() if inputs}

    @property
    def vector_stages(self) -> list[str]:
        """The stages that order by a product of vectors."""
        return [stage.name for stage in self.stages if stage.orders_by_product]

    @property
    def networks(self) -> dict[str, NetworkSettings]:
        """Stages, then teachers, by their key, such as `stages.0`; the last trains first in `train.mode: separate`."""
        return {f"stages.{n}": stage for n, stage in enumerate(self.stages)} | {
            f"teachers.{n}": teacher for n, teacher in enumerate(self.teachers)
        }

    @property
    def turns(self) -> dict[str | None, int]:
        """Epochs of each stage and teacher by itself, the last first, in `train.mode: separate`; else of all, as None.

        Raises ConfigError if they are auto still.
        """
        train = self.train
        if train.mode != "separate":
            return {None: train.epochs_of(None)}
        networks = reversed(self.networks.values())
        return {one.name: train.epochs_of(one.name) for one in networks if not one.fitted}

    def attended(self, schema: Schema) -> set[str]:
        """The histories that networks attend to."""
        attentions = (network.attended(schema) for network in self.networks.values())
        return {attended.history for attended in attentions if attended is not None}

    def stage(self, name: str) -> StageSettings:
        """The stage of a name."""
        return next(stage for stage in self.stages if stage.name == name)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        """Refuse a key of `train` that is neither a setting nor a stage: its value would be read as an optimiser."""
        value = _take_page(value)
        match value:
            case {"train": {**train}, "stages": [*stages]}:
                teachers = value.get("teachers")
                stages += teachers if isinstance(teachers, list) else []
                names = {
                    str(stage["name"]) for stage in stages if isinstance(stage, dict) and "name" in stage
                }
                known = [*TrainSettings.model_fields, *sorted(names)]
                strange = [key for key in train if key not in known]
                # errors in the stages themselves are reported instead
                if strange and names and len(names) == len(stages):
                    raise ConfigError(f"train: {describe_unknown(strange[0], known)}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        schema, total, networks = self.declared, self.total, self.networks
        schema.check_data(self.data)
        names = {key: network.name for key, network in networks.items()}
        self._check_names()
        for key, network in networks.items():
            network.check(self._context(key, schema))
        if unread := schema.unread(attended=self.attended(schema)):
            raise ConfigError(
                f"features.{unread[0]}: no network reads it, no other feature is made of it, and no `din` attends to "
                "it; drop it, or input: false"
            )
        if all(feature.storage in ("number", "vector") for feature in schema.features.values()):
            raise ConfigError(
                "features: all are numbers or vectors, and networks need one with an embedding; add the items' id: "
                "item_id: {side: item, kind: id}"
            )
        total.check_teachers({key: name for key, name in names.items() if key.startswith("teachers")})
        for n, trees in enumerate(self.tree_teachers):
            others = [
                *names.values(),
                *self.data.scores,
                *(teacher.name for teacher in self.tree_teachers[:n]),
            ]
            trees.check(f"tree_teachers.{n}", list(self.data.labels), others, self.losses)
        self._check_retrieval(schema)
        self._check_page(schema)
        self.export.check(self.item_parts)
        self.drift.check(list(self.features))
        total.check()
        self.train.check({stage.name: list(stage.labels) for stage in self.stages})
        if self.train.early_stop is not None and "valid" not in self.data.split_names:
            raise ConfigError("train.early_stop: there is no split 'valid' to stop by; add one to data.split")
        self._check_fitted()
        total.check_learners({key: name for key, name in names.items() if not networks[key].fitted})
        check_tables(networks)
        if self.train.mode != "joint":
            total.check_one_learner(self.train.mode)
        if self.train.mode == "separate":
            check_separate_tables(networks)
            total.check_teaching_order(list(names.values()))
        return self

    def _check_fitted(self) -> None:
        """Raise ConfigError if a loss, an optimiser or early stopping is of a stage that is fitted before training."""
        fitted = [network.name for network in self.networks.values() if network.fitted]
        self.total.check_fitted(fitted)
        stop = self.train.early_stop
        if stop is not None and (name := stop.metric.rsplit(".", 2)[0]) in fitted:
            raise ConfigError(
                f"train.early_stop.metric: '{name}' is fitted before the first step, so that {stop.metric} is the same "
                "in every epoch; name a stage that learns by steps"
            )
        for name in fitted:
            if name in self.train.stages:
                raise ConfigError(f"train.{name}: '{name}' is fitted before, by no optimiser; drop it")

    def _context(self, key: str, schema: Schema) -> StageContext:
        part, _, n = key.partition(".")
        before = self.stages[: int(n)] if part == "stages" else []
        quotas = {stage.name: stage.keep for stage in before}
        return StageContext(key, schema, self.data, quotas, last_first=self.train.mode == "separate")

    def _check_names(self) -> None:
        """Raise ConfigError if two of the stages, teachers and scores have one name, or a name is reserved."""
        seen: set[str] = set()
        for key, network in self.networks.items():
            if network.name in TAKEN:
                raise ConfigError(f"{key}.name: '{network.name}' means something else; take another name")
            if network.name in seen and key.startswith("stages"):
                raise ConfigError(f"{key}.name: two stages are called '{network.name}'")
            if network.name in seen:
                raise ConfigError(f"{key}.name: another is called '{network.name}', too")
            seen.add(network.name)
        for name in self.data.scores:
            if name in seen:
                raise ConfigError(f"data.scores.{name}: a stage or teacher has the name; rename the score")

    @model_serializer(mode="wrap")
    def _put_page(self, plain: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """The page stands last among the stages."""
        values: dict[str, Any] = plain(self)
        if self.page is not None and "stages" in values:
            page = self.page.model_dump(mode=info.mode, by_alias=info.by_alias or False)
            values["stages"] = [*values["stages"], page]
        return values

    @property
    def item_parts(self) -> list[str]:
        """What stages store of items, `STAGE.PART`."""
        return [f"{stage.name}.{part}" for stage in self.stages for part in stage.item_parts]

    def _check_page(self, schema: Schema) -> None:
        """Raise ConfigError if the page does not fit the other parts."""
        if self.page is None:
            return
        key, taken = f"stages.{len(self.stages)}", {network.name for network in self.networks.values()}
        if self.page.name in {*TAKEN, *taken, *self.data.scores}:
            raise ConfigError(f"{key}.name: '{self.page.name}' means something else; take another name")
        try:
            check_page(self.page, schema, self.item_parts, {stage.name: stage.keep for stage in self.stages})
        except ConfigError as error:
            raise ConfigError(f"{key}.{error}") from None

    def _check_retrieval(self, schema: Schema) -> None:
        if self.retrieval is not None:
            named = self.retrieval.stage
            if named not in self.vector_stages and any(
                s.name == named and s.has_vectors for s in self.stages
            ):
                raise ConfigError(
                    f"retrieval.stage: '{named}' orders by more than a product of vectors; "
                    "name a stage of model: towers without matches"
                )
            self.retrieval.check(self.vector_stages)
        elif schema.filters():
            raise ConfigError(f"features.{schema.filters()[0]}.filter: there is no `retrieval` to filter")


STEPS = 600
"""Optimiser steps that are planned at least; early stopping on the validation split may end them before."""
MOST_EPOCHS = 20
LONG = 10 * STEPS
"""An epoch of so many steps, 1.5 million requests, is the only one: fewer are seen twice, the better epoch is kept."""
SMALLEST, LARGEST = 16, 256
"""Requests a batch."""
PATIENCE = 2
"""Epochs without a better AUC after which a training of planned epochs ends."""


def plan_training(config: Config, requests: int) -> Config:
    """A config with numbers in place of `auto` in `train`; any other as it is.

    Batches are of about a two-hundredth of the requests; epochs are as many as make STEPS steps.

    Args:
        config: the config.
        requests: of the training split.
    """
    train = config.train
    if train.planned:
        return config
    changed: dict[str, Any] = {}
    if train.requests == AUTO:
        changed["requests"] = max(SMALLEST, min(LARGEST, 1 << max(0, (requests // 200).bit_length() - 1)))
    if train.epochs == AUTO:
        steps = max(1, -(-requests // changed.get("requests", train.requests)))
        changed["epochs"] = 1 if steps >= LONG else max(2, min(MOST_EPOCHS, -(-STEPS // steps)))
        # what is fitted before the first step has the same figures in every epoch
        learners = [stage for stage in config.stages if not stage.fitted]
        validates = train.mode != "separate" and "valid" in config.data.split_names
        if train.early_stop is None and validates and learners:
            stop = f"{learners[-1].name}.{learners[-1].labels[0]}.auc"
            changed["early_stop"] = EarlyStop(metric=stop, patience=PATIENCE)
    return config.model_copy(update={"train": train.model_copy(update=changed)})


def plan_packed(config: Config, packed: PackedDataset) -> Config:
    """As `plan_training`, for packed data."""
    return plan_training(config, sum(shard.requests for shard in packed.manifest.splits["train"]))


_TIME = "@time"
_REQUEST = "@request"


def with_moments(config: Config, base: Path) -> Config:
    """A config whose `data.split` names moments where it named shares; any other as it is, its log unread.

    Args:
        config: the config.
        base: the folder that its relative paths begin in.

    Raises:
        DataError: the log cannot be read, or its times are too few to split.
    """
    rule = config.data.split
    if not isinstance(rule, ShareSplit):
        return config
    data = config.data.model_copy(update={"split": _find_moments(config, base, rule)})
    return config.model_copy(update={"data": data})


def _find_moments(config: Config, base: Path, rule: ShareSplit) -> TimeSplit:
    """Count the requests of each time, streamed: of a row the key's hash and the time alone are read."""
    data = config.data
    log = scan_log(data, base)
    key = pl.struct(log.key(column).alias(str(n)) for n, column in enumerate(data.request)).hash()
    rows = log.frame.select(key.alias(_REQUEST), log.moment(data.time).alias(_TIME))
    requests = rows.group_by(_REQUEST).agg(pl.col(_TIME).min())
    times = log.collect(requests.drop_nulls(_TIME).group_by(_TIME).len().sort(_TIME))
    if not len(times):
        raise DataError("data.log: the log is empty")
    first, last = times[_TIME][0], times[_TIME][-1]
    if first < EARLIEST or last > LATEST:
        raise DataError(
            f"data.log: column '{data.time}' holds {first if first < EARLIEST else last}, which is no time of the "
            "years 1 to 9999; whole numbers are milliseconds"
        )
    return rule.at(times[_TIME], times["len"])

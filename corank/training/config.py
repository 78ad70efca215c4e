"""One frozen, checked config: what each part is stands beside its component, how they fit together stands here."""

from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, Field, PositiveInt, model_validator
from torch import nn

from corank.core.ann_index import RetrievalSettings
from corank.core.errors import ConfigError
from corank.core.settings import Settings, unknown
from corank.features.kinds import Feature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from corank.losses import Distill, Loss, Scope, Total
from corank.metrics.metric import validation_metrics
from corank.models.embedding import TableOptimiser
from corank.models.joint import Stage
from corank.models.mlp import MlpSettings
from corank.models.teacher import TeacherSettings
from corank.models.two_tower import TowersSettings
from corank.training.optimisers import DenseOptimiser


class EarlyStop(Settings):
    """Stop when a validation metric has not bettered for `patience` epochs; the best epoch's weights are kept."""

    metric: str = "rank.click.auc"
    """stage.label.metric; metrics of the table that have `validation`, such as auc, gauc and logloss."""
    patience: PositiveInt = 1

    def merit(self, value: float) -> float:
        """A number that is higher for the better of two values of the metric."""
        return validation_metrics()[self.metric.rpartition(".")[2]].merit(value)


class TrainSettings(Settings):
    """How a run trains. A key named as a stage (`rank: {lr: 0.001}`) sets that stage's optimiser."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, DenseOptimiser] = Field(init=False)

    mode: Literal["joint", "separate", "alternate"] = "joint"
    """All stages in one step; each for all its epochs, the last stage first; or a step each in turn, a batch."""
    epochs: PositiveInt = 1
    """Of every stage, where they train separately."""
    requests: Annotated[int, Ge(1), Le(2**16)] = 256
    """Requests a batch."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    table: TableOptimiser = TableOptimiser()
    average: Annotated[float, Gt(0), Lt(1)] | None = None
    """Decay of an exponential average of the weights, which is then what is evaluated and shipped."""
    early_stop: EarlyStop | None = None
    checkpoint_every: PositiveInt = 1000
    """Optimiser steps between checkpoints; one is written after every epoch, too."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the matrix products in training; auto is bf16 where the processor has it. Evaluation is fp32."""

    @property
    def stages(self) -> dict[str, DenseOptimiser]:
        return dict(self.__pydantic_extra__ or {})


TAKEN = {"shared", "position", *TrainSettings.model_fields, *dir(nn.ModuleDict)}
"""Names that no stage may have: of shared tables, of positions, of `train`'s keys, and those that torch keeps."""


class Config(Settings):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    plugins: list[str] = []
    """Python modules that register parts of the user's own, from the Python path or the config's folder."""
    data: DataSettings
    features: dict[str, Feature] = Field(min_length=1)
    stages: list[Stage] = Field(min_length=1)
    """In the order of the cascade, the first to cut first."""
    teachers: list[TeacherSettings] = []
    """Who only teaches."""
    losses: list[Loss] = Field(min_length=1)
    retrieval: RetrievalSettings | None = None
    train: TrainSettings = TrainSettings()

    @property
    def declared(self) -> Schema:
        return Schema(self.features)

    @property
    def total(self) -> Total:
        scope = Scope(
            levels=self.data.levels,
            labels=list(self.data.labels),
            stages={stage.name: stage.labels for stage in [*self.stages, *self.teachers]},
            keep={stage.name: stage.keep for stage in self.stages},
            towers=[stage.name for stage in self.stages if stage.model == "towers"],
            scores=list(self.data.scores),
            levelled=self.data.level is not None,
        )
        return Total(self.losses, scope)

    def _networks(self) -> list[tuple[str, Stage | TeacherSettings]]:
        """Stages and teachers by their key; the last trains first where they train separately."""
        return [(f"stages.{n}", stage) for n, stage in enumerate(self.stages)] + [
            (f"teachers.{n}", teacher) for n, teacher in enumerate(self.teachers)
        ]

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    @model_validator(mode="before")
    @classmethod
    def _train_keys(cls, value: Any) -> Any:
        """A key of `train` that is neither a setting nor a stage, before its value is read as an optimiser."""
        match value:
            case {"train": {**train}, "stages": [*stages]}:
                teachers = value.get("teachers")
                stages += teachers if isinstance(teachers, list) else []
                names = {
                    str(stage["name"]) for stage in stages if isinstance(stage, dict) and "name" in stage
                }
                known = [*TrainSettings.model_fields, *sorted(names)]
                strange = [key for key in train if key not in known]
                # stages that are themselves wrong are told of instead
                if strange and names and len(names) == len(stages):
                    raise ConfigError(f"train: {unknown(strange[0], known)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        schema = self.declared
        names = [stage.name for stage in self.stages]
        for n, stage in enumerate(self.stages):
            if stage.name in names[:n]:
                raise ConfigError(f"stages.{n}.name: two stages are called '{stage.name}'")
            self._check_stage(stage, n)
            stage.check(schema)
            stage.ordering(self.data.columns)
        for n, teacher in enumerate(self.teachers):
            self._check_teacher(teacher, n)
        self._check_histories(schema)
        self._check_priors(schema)
        self._check_scores()
        self._check_retrieval()
        self.total.check()
        self._check_early_stop()
        self._check_learners()
        self._check_tables()
        self._check_mode()
        return self

    def _check_teacher(self, teacher: TeacherSettings, n: int) -> None:
        key = f"teachers.{n}"
        self._check_network(teacher, key)
        teacher.attended(self.declared, "teachers")
        if teacher.name in [other.name for other in [*self.stages, *self.teachers[:n]]]:
            raise ConfigError(f"{key}.name: another is called '{teacher.name}', too")
        for score in teacher.scores:
            if score not in self.data.scores:
                raise ConfigError(
                    f"{key}.scores: {unknown(score, self.data.scores)}, as data.scores names them"
                )
        if not any(isinstance(t, Distill) and t.teacher == teacher.name for t in self.losses):
            raise ConfigError(
                f"{key}: nobody learns from '{teacher.name}'; add a loss {{kind: distill, teacher: {teacher.name}, …}}"
            )

    def _check_network(self, network: Stage | TeacherSettings, key: str) -> None:
        if network.name in TAKEN:
            raise ConfigError(f"{key}.name: '{network.name}' means something else already; take another name")
        for label in network.labels:
            if label not in self.data.labels:
                raise ConfigError(
                    f"{key}.labels: no label '{label}'; data.labels are {', '.join(self.data.labels)}"
                )

    def _check_stage(self, stage: Stage, n: int) -> None:
        self._check_network(stage, f"stages.{n}")
        for level in stage.cuts:
            if level not in self.data.levels:
                raise ConfigError(
                    f"stages.{n}.cuts: no level '{level}'; data.levels are {', '.join(self.data.levels)}"
                )
        if isinstance(stage, MlpSettings):
            self._check_earlier(stage, n)
        if not n and stage.deadline_ms is not None:
            raise ConfigError(
                f"stages.0.deadline_ms: '{stage.name}' is the first stage, and there is no other order; take it away"
            )
        if n and stage.keep > self.stages[n - 1].keep:
            raise ConfigError(
                f"stages.{n}.keep: '{stage.name}' would keep {stage.keep} of the {self.stages[n - 1].keep} that "
                f"'{self.stages[n - 1].name}' leaves it; quotas fall along the cascade"
            )

    def _check_earlier(self, stage: MlpSettings, n: int) -> None:
        """What a stage sees of others must be there when it is asked."""
        before = {other.name: other for other in self.stages[:n]}
        for name, what in stage.sees():
            key = f"stages.{n}.from_stages"
            if name not in before:
                raise ConfigError(
                    f"{key}: '{name}' is no stage before '{stage.name}'; there are {', '.join(before) or 'none'}"
                )
            if what == "place" and name != self.stages[0].name:
                raise ConfigError(
                    f"{key}: '{name}' places only what '{self.stages[0].name}' keeps, yet all candidates in training: "
                    f"its place would mean two things; write {name}.score"
                )
            if self.train.mode == "separate":
                raise ConfigError(
                    f"{key}: '{name}' trains after '{stage.name}' in train.mode: separate, where the last stage is "
                    "first; write joint or alternate"
                )

    def _check_priors(self, schema: Schema) -> None:
        for name, prior in schema.priors().items():
            if prior.label is not None and prior.label not in self.data.labels:
                raise ConfigError(
                    f"features.{name}.label: no label '{prior.label}'; data.labels are {', '.join(self.data.labels)}"
                )

    def _check_histories(self, schema: Schema) -> None:
        for name, history in schema.histories().items():
            if history.event is not None and history.event not in self.data.labels:
                raise ConfigError(
                    f"features.{name}.event: no label '{history.event}'; "
                    f"data.labels are {', '.join(self.data.labels)}"
                )
            if schema.column(history.of or "") != self.data.item:
                raise ConfigError(
                    f"features.{name}.of: a history holds items, so it must be of the feature over "
                    f"data.item ('{self.data.item}'); received '{history.of}'"
                )

    def _check_early_stop(self) -> None:
        stop = self.train.early_stop
        if stop is not None:
            metrics = validation_metrics()
            known = [
                f"{s.name}.{label}.{name}" for s in self.stages for label in s.labels for name in metrics
            ]
            if stop.metric not in known:
                raise ConfigError(
                    f"train.early_stop.metric: unknown metric '{stop.metric}'; known metrics: {', '.join(known)}"
                )

    def _check_retrieval(self) -> None:
        if self.retrieval is None:
            if self.declared.filters():
                raise ConfigError(
                    f"features.{self.declared.filters()[0]}.filter: there is no `retrieval` that could be filtered"
                )
            return
        towers = [stage.name for stage in self.stages if isinstance(stage, TowersSettings)]
        if self.retrieval.stage not in towers:
            raise ConfigError(f"retrieval.stage: {unknown(self.retrieval.stage, towers, 'towers stage')}")

    def _check_scores(self) -> None:
        for name in self.data.scores:
            if name in [network.name for network in [*self.stages, *self.teachers]]:
                raise ConfigError(
                    f"data.scores.{name}: a stage or teacher is called so, too, and a loss could mean either; "
                    "rename the score"
                )

    def _check_learners(self) -> None:
        total = self.total
        for key, stage in self._networks():
            terms = [term for _, term in total.of(None) if term.weight > 0]
            # a loss without a learner of its own trains every stage that it reads
            taught = [name for t in terms for name in ([t.learner] if t.learner else t.reads(total.scope))]
            if stage.name not in taught:
                raise ConfigError(
                    f"{key}: no loss trains '{stage.name}'; add one, such as "
                    f"{{kind: click, stage: {stage.name}}}, or drop the stage"
                )

    def _check_tables(self) -> None:
        networks = [network for _, network in self._networks()]
        for key, stage in self._networks():
            users = (
                [s for s in networks if s.embeddings == "shared"] if stage.embeddings == "shared" else [stage]
            )
            if not any(s.table_gradient for s in users):
                raise ConfigError(
                    f"{key}.table_gradient: nobody would train the tables of '{stage.name}'; "
                    f"write true for {' or '.join(s.name for s in users)}"
                )

    def _check_mode(self) -> None:
        mode = self.train.mode
        if mode == "joint":
            return
        for n, term in enumerate(self.losses):
            if term.learner is None:
                raise ConfigError(
                    f"losses.{n}: '{term.kind}' trains several stages at once, so it needs train.mode: joint; "
                    f"received {mode}"
                )
        if mode == "separate":
            self._check_separate()

    def _check_separate(self) -> None:
        networks = self._networks()
        names = [network.name for _, network in networks]
        if self.train.early_stop is not None:
            raise ConfigError(
                "train.early_stop: the stages of train.mode: separate end one after another; drop it"
            )
        sharing = [(key, network) for key, network in networks if network.embeddings == "shared"]
        for key, stage in sharing[:-1]:
            if stage.table_gradient:
                raise ConfigError(
                    f"{key}.embeddings: '{stage.name}' trains after '{sharing[-1][1].name}' and would change "
                    "its tables; write embeddings: own, or table_gradient: false"
                )
        for n, term in enumerate(self.losses):
            if isinstance(term, Distill) and term.teacher in names[: names.index(term.student)]:
                raise ConfigError(
                    f"losses.{n}.teacher: '{term.teacher}' trains after '{term.student}' in train.mode: separate, "
                    "where the last stage is first; take a deeper stage"
                )

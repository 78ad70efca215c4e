"""Training a config: in this process, as one of a launch, or by several processes."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import polars as pl
from annotated_types import Ge

from corank.api.config_source import ConfigSource, OpenedConfig
from corank.api.frames import TableSource
from corank.api.progress import describe_kept, show_progress, training_callbacks
from corank.api.results import FIRST_ROWS, ComparisonResult, Metrics, Result, frame, view_frames
from corank.core.errors import (
    CheckpointError,
    ConfigError,
    CorankError,
    MissingExtraError,
    UsageError,
)
from corank.core.lazy import lazy, name_missing_extra
from corank.core.objects import Location, PathOrUrl, parse_location
from corank.core.options import Option, Overrides
from corank.core.reports import Report
from corank.core.view import Section
from corank.data.packing.packs import is_past
from corank.distributed.launch_environment import is_first, is_started_here
from corank.engine.base import Engine, open_engine
from corank.training.callbacks import Callback, check_callbacks
from corank.training.config.config import Config, plan_packed
from corank.training.run_file import Origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corank.analysis import html
    from corank.analysis.experiments import tree_baseline
    from corank.data.packed.dataset import PackedDataset
    from corank.distributed.ranks import Ranks
    from corank.training import device, packed_data, rank_agreement, run_publisher, warm_start_plan
    from corank.training import run as runs
    from corank.training import warm_start_preparation as warm_starts
    from corank.training.checks import findings, judgements, log_profile
    from corank.training.run import Run
    from corank.training.run_publisher import RunPublisher
    from corank.training.tracking import tracker
else:
    findings = lazy("corank.training.checks.findings")
    html = lazy("corank.analysis.html")
    judgements = lazy("corank.training.checks.judgements")
    log_profile = lazy("corank.training.checks.log_profile")
    packed_data = lazy("corank.training.packed_data")
    run_publisher = lazy("corank.training.run_publisher")
    tracker = lazy("corank.training.tracking.tracker")
    runs = lazy("corank.training.run")
    device = lazy("corank.training.device")
    rank_agreement = lazy("corank.training.rank_agreement")
    tree_baseline = lazy("corank.analysis.experiments.tree_baseline")
    warm_start_plan = lazy("corank.training.warm_start_plan")
    warm_starts = lazy("corank.training.warm_start_preparation")


@dataclass(frozen=True)
class TrainResult(Result):
    """A finished training, and its run.

    Example:
        >>> result = corank.train("shop/config.yaml", resume=True)
        >>> result.epoch, str(result.run.folder), result.tables["metrics"].columns
        (2, 'shop/runs/shop', ['epoch', 'stage', 'label', 'metric', 'value'])
    """

    run: "Run"
    """The folder, the config, and what can be read of them."""
    epoch: int
    """Whose weights the trained model has, counted from 1."""
    history: Sequence[Mapping[str, float | None]]
    """The validation metrics of every epoch, by `STAGE.LABEL.METRIC`; empty without a split `valid`."""
    location: Location
    """The run's folder, or its URL."""
    baseline: ComparisonResult | None = None
    """The last stage less boosted trees on the same held-out rows, if the config's `baseline` asks for them."""

    @classmethod
    def of(cls, run: "Run", facts: Mapping[str, Any], location: Location) -> Self:
        """The result of a run, from the facts of its trained model."""
        return cls(run, facts["epoch"], facts["figures"], location)

    @property
    def lines(self) -> Sequence[str]:
        """Which epoch was kept and why, and where the run lies; then how it compares with boosted trees."""
        return [f"{describe_kept(self.run, self.epoch)}; run: {self.location}", *self._compared]

    @property
    def _compared(self) -> list[str]:
        """How it compares with boosted trees."""
        return [] if self.baseline is None else tree_baseline.describe_baseline(self.baseline)

    @property
    def origin(self) -> Origin | None:
        """The run whose weights it took over, and what was carried over, began fresh or is gone; None without one."""
        return self.run.origin

    @property
    def metrics(self) -> dict[str, float | None]:
        """The validation metrics of the epoch that was kept, by `STAGE.LABEL.METRIC`; printed as a short table."""
        return Metrics(self.history[self.epoch - 1])

    def __repr__(self) -> str:
        """Which epoch was kept, where the run lies, and its metrics, in ten lines."""
        kept = f"{describe_kept(self.run, self.epoch)}; run: {self.location}"
        return "\n".join([kept, *repr(self.metrics).splitlines()[: FIRST_ROWS - 1]])

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`metrics`: a row an epoch and metric; `carried`: a row a part of the run whose weights it took over."""
        rows = (
            {"epoch": n, "stage": stage, "label": label, "metric": metric, "value": value}
            for n, figures in enumerate(self.history, start=1)
            for name, value in figures.items()
            for stage, label, metric in [_split(name)]
        )
        metrics = frame(
            rows, epoch=pl.Int64, stage=pl.String, label=pl.String, metric=pl.String, value=pl.Float64
        )
        if self.origin is None:
            return {"metrics": metrics}
        carried = frame((part.model_dump() for part in self.origin.parts), ["part", "name", "state", "note"])
        return {"metrics": metrics, "carried": carried}

    def plot(self) -> "Figure":
        """Draw the validation metrics by epoch: a plot a metric, a line a stage and label. Returns a figure.

        Raises MissingExtraError without matplotlib, which `corank[train]` brings.
        """
        with name_missing_extra("plot()"):
            from corank.analysis import plots
            from corank.analysis.colours import plot_rows
            from corank.api.figures import draw_figure

        panels: dict[str, dict[str, plots.Series]] = {}
        known = self.tables["metrics"].drop_nulls("value")
        for (stage, label, metric), rows in known.group_by("stage", "label", "metric", maintain_order=True):
            line = plots.Series(rows["epoch"].to_numpy().astype(np.int64), rows["value"].to_numpy())
            panels.setdefault(str(metric), {})[f"{stage} {label}"] = line
        return draw_figure(
            lambda figure: plots.small_plots(figure, panels, "epoch") if panels else None,
            height=0.6 + 2.0 * max(plot_rows(len(panels)), 1),
        )

    def to_json(self) -> str:
        """The run's folder, the epoch that was kept and its metrics, what it took over, and how it compares with
        boosted trees, as JSON text."""
        document = {"run": str(self.run.folder), "epoch": self.epoch, "metrics": self.metrics}
        if self.origin is not None:
            document["from"] = self.origin.model_dump()
        if self.baseline is not None:
            document["baseline"] = self.baseline.document
        return json.dumps(document, indent=1, allow_nan=False)

    def _repr_html_(self) -> str:
        kept = self.tables["metrics"].filter(pl.col("epoch") == self.epoch, pl.col("value").is_not_null())
        table = kept.pivot("metric", index=["stage", "label"], values="value") if len(kept) else kept
        view = view_frames(f"{self.run.folder}: {describe_kept(self.run, self.epoch)}", {"validation": table})
        return html.render_part(replace(view, sections=[*view.sections, Section("", self._compared)]))


def _split(name: str) -> tuple[str, str, str]:
    """`STAGE.LABEL.METRIC` in its parts."""
    stage, _, rest = name.partition(".")
    label, _, metric = rest.rpartition(".")
    return stage, label, metric


CREATED = "created"
"""Mark of a launch that has begun its run: a restart continues from the run's last checkpoint."""


def train(
    config: ConfigSource,
    overrides: Overrides = (),
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    overwrite: bool = False,
    folder: Annotated[PathOrUrl | None, Option("--run")] = None,
    report: Report = lambda line: None,
    workers: Annotated[int | None, Ge(1)] = None,
    max_restarts: Annotated[int, Ge(0)] = 0,
    timeout: Annotated[float | None, Ge(1)] = None,
    without: Sequence[str] = (),
    tables: Mapping[str, TableSource] | None = None,
    track: Sequence[str] = (),
    continue_from: Annotated[PathOrUrl | None, Option("--from")] = None,
) -> TrainResult:
    """Train a config, packing first if it is not packed yet; under torchrun as one of several processes.

    If the config says `baseline: true`, the last stage is compared with boosted trees when the run is finished.

    Args:
        config: a YAML file, a mapping of the same keys, or `corank.Config`.
        overrides: `a.b=value` changes of the config.
        callbacks: called with losses, metrics and checkpoints while it trains; a notebook shows progress, too.
        resume: continue from the latest checkpoint of the folder, if there is one.
        overwrite: replace the folder's training.
        folder: the run's folder, or its URL (default: `runs/NAME` next to the config).
        report: takes lines about packing, positives and negatives, and warnings.
        workers: processes to start here, which train together and print progress to stderr (default: this one).
        max_restarts: how often the workers are restarted after one has died.
        timeout: seconds that a process waits for the others (default: 600).
        without: features to remove, with what is made of them.
        tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), a frame or files in its place.
        track: callbacks by name, such as `mlflow` or `wandb,project=shop`, called after `callbacks`.
        continue_from: a finished run, or its URL: take over its weights and optimiser states where they fit.

    Returns the run, the epoch that was kept, and its validation metrics. Raises ConfigError, DataError,
    CheckpointError, DistributedError, BusyError if another trains or packs there, and what a callback raises.

    Example:
        >>> result = corank.train("shop/config.yaml", ["train.seed=1"], folder="shop/runs/seed1")
        >>> result.metrics["rank.click.auc"] > 0.5
        True
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    called = check_callbacks(callbacks)
    # a mistake is reported before torch is loaded, or workers are started
    tell = report if is_first() and workers is None else lambda line: None
    opened = OpenedConfig.open(config, overrides, without, tell, tables)
    training = _Training(opened, folder, resume, overwrite, report, continue_from)
    if workers is not None:
        training = training.with_moments()
        if called:
            raise ConfigError("callbacks run in this process, workers in others; leave out one of them")
        tracker.read_callbacks(track)
        options = [f"--track={name}" for name in track]
        options += [] if timeout is None else [f"--timeout={timeout}"]
        with opened.frames.named():
            return training.with_baseline(*training.launch(options, workers, max_restarts))
    if max_restarts:
        raise ConfigError("--max-restarts needs --workers; under torchrun it is an option of torchrun")
    from corank.distributed.process_group import join_ranks

    with join_ranks(timeout) as ranks:
        training = training.with_moments()
        called += tracker.read_callbacks(track) + training_callbacks()
        with opened.frames.named():
            ended = training.run(called, ranks)
    return training.with_baseline(*ended)  # the other ranks do not wait for it


@dataclass(frozen=True)
class _Training:
    """A training as it was asked for."""

    opened: OpenedConfig
    folder: PathOrUrl | None
    resume: bool
    overwrite: bool
    report: Report
    source: PathOrUrl | None

    def with_moments(self) -> "_Training":
        """The same with moments where the config's split has shares. Raises DataError."""
        return replace(self, opened=self.opened.with_moments())

    @property
    def location(self) -> Location:
        """Where the run goes."""
        return parse_location(self.folder or self.opened.base / "runs" / self.opened.settings.name)

    def run(
        self, callbacks: Sequence[Callback], ranks: "Ranks"
    ) -> tuple[TrainResult, "PackedDataset | None"]:
        """Train in this process, alone or as one of several ranks.

        Returns the packed data, too, unless the run was finished before.
        """
        from corank.training.train import train_run

        location = self.location
        with ExitStack() as stack:
            run = self._open_folder(stack, ranks)

            def prepare() -> tuple[bool, str | None]:
                stack.enter_context(runs.Run.lock(run.folder))
                return self._prepare(run, ranks)

            goes_on, begin = ranks.first_does(prepare, "preparation by the first rank")
            packed = packed_data.open_packed(run.config, run.base, is_past)
            run = replace(run, config=plan_packed(run.config, packed))
            rank_agreement.require_agreement(ranks, run.config, packed)
            plan = None
            if begin is not None and not goes_on:
                plan = warm_start_plan.plan_warm_start(parse_location(begin), run.config, packed)
            finished = goes_on and run.finished
            facts = train_run(run, packed, callbacks, goes_on, ranks, plan=plan)
        opened = runs.Run.open(location)
        trained = replace(run, origin=opened.origin) if isinstance(location, Path) else opened
        return TrainResult.of(trained, facts, location), None if finished else packed

    def with_baseline(self, result: TrainResult, packed: "PackedDataset | None") -> TrainResult:
        """The result with the comparison with boosted trees, by the process that prints it.

        Whatever goes wrong there becomes a line of the report: the run is finished. Without LightGBM, or packed data,
        nothing is compared.
        """
        if packed is None or not result.run.config.baseline or is_started_here() or not is_first():
            return result
        try:
            with show_progress("trees", lambda done, total: None) as advance:
                document = tree_baseline.compare_last_stage(result.run, packed, advance)
        except MissingExtraError:
            return result
        except Exception as error:  # also of LightGBM, or for want of memory
            what = str(error) if isinstance(error, CorankError) else f"{type(error).__name__}: {error}"
            self.report(f"warning: not compared with boosted trees: {what}")
            return result
        return replace(result, baseline=None if document is None else ComparisonResult(document))

    def _open_folder(self, stack: ExitStack, ranks: "Ranks") -> "Run":
        """Name the run's folder; of a URL, the working folder of the first rank, which publishes it."""
        location, settings, base = self.location, self.opened.settings, self.opened.base
        if isinstance(location, Path):
            return runs.Run(location, settings, base)
        publishers: list[RunPublisher] = []

        def open_working() -> str:
            publishers.append(stack.enter_context(run_publisher.open_remote_run(location, self.report)))
            return str(publishers[0].folder)

        folder = Path(ranks.first_does(open_working, "working folder of the first rank"))
        return runs.Run(folder, settings, base, publishers[0].publish if publishers else lambda: None)

    def _prepare(self, run: "Run", ranks: "Ranks") -> tuple[bool, str | None]:
        """Pack if needed, and begin the run or find it begun; by the first rank.

        Returns whether a training that the folder holds is resumed, and the run whose weights it takes over.
        """
        restarted, report = ranks.log.remembers(CREATED), self.report  # by this launch, before a restart
        resume = self.resume or restarted
        if not (resume or self.overwrite):
            self._require_new(run.folder)
        given = None if self.source is None else parse_location(self.source)
        source = warm_starts.find_source(run, given, resume)
        begin = None if source is None else str(source)
        packed = self._pack(run.config, source)
        run = replace(run, config=plan_packed(run.config, packed))
        if resume and (run.finished or run.has_state):
            if ranks.restarts:
                report(f"restart {ranks.restarts}: going on from the last checkpoint")
            return True, begin
        warm_starts.require_epochs(run.config, source)
        profile = log_profile.profile_training(run.config, run.base, packed, source is not None)
        found = judgements.judge(profile)
        findings.refuse_errors(found)
        origin = None
        if source is not None:
            origin = warm_starts.describe_origin(
                warm_start_plan.plan_warm_start(source, run.config, packed), run
            )
        runs.Run.create(run.folder, run.config, run.base, run.publish, origin, packed.manifest.fingerprint)
        ranks.log.remember(CREATED)
        profile.report(report)
        for line in device.precision_warnings(run.config.train.precision, device.device()):
            report(f"warning: {line}")
        findings.report_findings(found, report)
        if origin is not None:
            for line in (f"from {source}, after {origin.step:,} steps:", *origin.lines()):
                report(line)
        return False, begin

    def _pack(
        self, settings: Config, source: PathOrUrl | Location | None, engine: Engine | None = None
    ) -> "PackedDataset":
        """Open the packed data, or pack them, continuing those of an earlier run if there is one."""
        find_earlier = partial(packed_data.open_earlier, source, settings.data)
        return packed_data.open_or_pack(settings, self.opened.base, self.report, engine, find_earlier)

    def _require_new(self, folder: Path) -> None:
        if runs.Run.has_begun(folder):
            how = "go on with --resume, or start over with --overwrite"
            raise CheckpointError(f"{self.location}: holds a training; {how}")

    def launch(
        self, options: list[str], workers: int, max_restarts: int
    ) -> tuple[TrainResult, "PackedDataset | None"]:
        """Pack, and train by several processes, which read the config as it is with all changes.

        Returns what `run` does.
        """
        from corank.distributed.launch import launch

        location = self.location
        flags = ["--resume"] * self.resume + ["--overwrite"] * self.overwrite
        if isinstance(location, Path) and not flags:
            self._require_new(location)  # before packing; of a URL, the first worker looks
        with open_engine(workers=workers) as engine:  # packs before the workers wait for one another
            self._pack(self.opened.settings, self.source, engine)
        finished = self.resume and self._is_finished()
        flags += [] if self.source is None else [f"--from={self.source}"]
        with self.opened.yaml_file() as config:
            launch(["train", str(config), f"--run={location}", *flags, *options], workers, max_restarts)
        run = runs.Run.open(location)
        packed = run.packed()
        return TrainResult.of(run, run.described(packed)[0].facts, location), None if finished else packed

    def _is_finished(self) -> bool:
        """Whether the run is finished already."""
        with suppress(CorankError):
            return runs.Run.open(self.location).finished
        return False

"""Training a config: in this process, as one of a launch, or by several processes that it starts."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from corank.core.errors import CheckpointError, ConfigError
from corank.core.files import restore_folder
from corank.core.types import Report
from corank.data.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.distributed.launch import launch
from corank.distributed.process_group import join_ranks
from corank.distributed.ranks import Ranks
from corank.training.agreement import require_agreement
from corank.training.config import Config
from corank.training.config_file import read
from corank.training.run import Run, open_packed, packed_folder
from corank.training.sufficiency import Sufficiency
from corank.training.train import SilentWatcher, Watcher, kept_figures, train_run

CREATED = "created"
"""Mark of a launch that has begun its run: a restart goes on from the run's last checkpoint."""


def train(
    config: Path,
    watcher: Watcher | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    folder: Path | None = None,
    report: Report = lambda line: None,
    workers: int | None = None,
    max_restarts: int = 0,
    timeout: float | None = None,
) -> tuple[Run, dict[str, Any]]:
    """Train a config, packing first if it is not packed yet.

    Under torchrun this process is one of several that train one model: the first alone packs, writes and reports, and
    a restart by its agent goes on from the last checkpoint.

    Args:
        config: the YAML file.
        watcher: receives losses and validation figures while it trains.
        overrides: `a.b=value` changes of the config.
        resume: continue from the latest checkpoint of the folder, if there is one.
        overwrite: replace a training that the folder holds.
        folder: of the run; `runs/NAME` beside the config unless given.
        report: takes lines about packing, about the positives and negatives that there are, and warnings.
        workers: processes to start on this machine, which train together and print their progress to stderr; this
            process alone unless given.
        max_restarts: how often the workers are started again after one of them has died.
        timeout: seconds that a process waits for the others, 600 unless given.

    Returns the run, and the validation figures of the epoch that was kept by `STAGE.LABEL.METRIC`, with `epoch`.
    Raises ConfigError, DataError, CheckpointError, BusyError if another process trains in the folder or packs, and
    DistributedError if the processes cannot work together.

    Example:
        run, figures = corank.train(Path("shop/config.yaml"), overrides=["train.seed=1"])
        figures["rank.click.auc"]
    """
    if workers is not None:
        if watcher is not None:
            raise ConfigError(
                "watcher: the workers print their progress; leave out the watcher, or the workers"
            )
        return _train_by_workers(config, overrides, resume, overwrite, folder, workers, max_restarts, timeout)
    if max_restarts:
        raise ConfigError("--max-restarts needs --workers; under torchrun it is an option of torchrun")
    with join_ranks(timeout) as ranks, ExitStack() as held:
        settings = read(config, overrides)
        run = Run(folder or config.parent / "runs" / settings.name, settings, config.parent)

        def prepare() -> bool:
            held.enter_context(Run.lock(run.folder))
            return _prepare(run, config, overrides, resume, overwrite, report, ranks)

        goes_on = ranks.first_does(prepare, "preparation by the first rank")
        packed = open_packed(settings, config.parent)
        require_agreement(ranks, settings, packed)
        if goes_on and ranks.restarts and ranks.first:
            report(f"restart {ranks.restarts}: going on from the last checkpoint")
        return run, train_run(run, packed, _watcher(watcher, ranks), goes_on, ranks)


def _watcher(watcher: Watcher | None, ranks: Ranks) -> Watcher:
    return watcher if watcher is not None and ranks.first else SilentWatcher()


def _prepare(
    run: Run,
    config: Path,
    overrides: Sequence[str],
    resume: bool,
    overwrite: bool,
    report: Report,
    ranks: Ranks,
) -> bool:
    """Pack if needed, and begin the run or find it begun; by the first rank. Returns whether it goes on."""
    if ranks.log.remembers(CREATED):  # by this launch, before a restart
        resume, overwrite = True, False
    if Run.has_begun(run.folder) and not (resume or overwrite):
        raise CheckpointError(
            f"{run.folder}: holds a training; go on with --resume, or begin anew with --overwrite"
        )
    packed = open_or_pack(run.config, config, report)
    if resume and (run.finished or run.latest.exists):
        return True
    sufficiency = Sufficiency.of(run.config, packed)
    sufficiency.require()
    Run.create(run.folder, run.config, config.parent)
    ranks.log.remember(CREATED)
    sufficiency.report(report)
    return False


def open_or_pack(settings: Config, config: Path, report: Report) -> PackedDataset:
    """The packed data of a config, packed now if there are none. Raises DataError if they are out of date."""
    folder = packed_folder(settings, config.parent)
    restore_folder(folder)
    if (folder / "manifest.json").exists():
        return open_packed(settings, config.parent)
    report("not packed yet: packing first")
    return pack_log(settings.data, settings.declared, config.parent, folder, report)


def _train_by_workers(
    config: Path,
    overrides: Sequence[str],
    resume: bool,
    overwrite: bool,
    folder: Path | None,
    workers: int,
    max_restarts: int,
    timeout: float | None,
) -> tuple[Run, dict[str, Any]]:
    settings = read(config, overrides)  # so that a mistake is told before anything is started
    folder = folder or config.parent / "runs" / settings.name
    options = [f"--set={override}" for override in overrides]
    options += ["--resume"] * resume + ["--overwrite"] * overwrite
    options += [] if timeout is None else [f"--timeout={timeout}"]
    launch(["train", str(config), f"--run={folder}", *options], workers, max_restarts)
    run = Run.open(folder)
    return run, kept_figures(run.trained(run.packed()).facts)

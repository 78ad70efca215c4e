"""The commands of writers_rounds.py, each forked from a process that has loaded what they need and has no threads."""

import json
import os
import signal
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self

import polars as pl

import corank
import corank.api.runs
import corank.cli.console
import corank.cli.progress
from corank.cli.main import main
from corank.core.errors import CorankError
from corank.data.packed.inputs import fingerprint
from corank.funnel.funnel import Funnel
from corank.training.config.config_file import read
from corank.training.run import Run
from corank_serve.store.base import open_store
from corank_serve.store.fetch import fetch_bundle
from corank_serve.store.live_version import StoreState
from corank_serve.store.upsert import upsert
from tests.support.bundle_versions import NARROW, changing, first
from tests.support.kills import CONTEXT

COMMANDS = ("export", "refresh", "publish", "upsert", "pack", "train", "prune")
SETTINGS = [f"--set={setting}" for setting in NARROW]
TRAINED = (*SETTINGS, "--set=train.requests=32", "--set=train.checkpoint_every=2")
PACKED = ("--set=name=packed", ("--set=data.timezone=UTC", "--set=data.timezone=Asia/Shanghai"))
NEW_ITEM = 1_000_000
"""Ids of upserted items begin here; each is upserted once."""


@dataclass(frozen=True)
class Targets:
    """What the commands write, and what they read."""

    folder: Path
    store: str

    @classmethod
    def make(cls, folder: Path, store: str) -> Self:
        """Make a world, two runs and the targets, so that every command succeeds alone."""
        _, run = first(folder, items=100, requests=240)
        config = run.base / "config.yaml"
        corank.train(config, [*NARROW, "train.seed=1"], folder=folder / "run1")
        items = pl.read_parquet(run.base / "items.parquet")
        for n in (0, 1):
            changed = items.with_columns(pl.col("price") * (2 + n))
            changed.write_parquet(folder / f"items{n}.parquet")
        (folder / "rows.json").write_text(json.dumps(changing(run)), encoding="utf-8")
        targets = cls(folder, store)
        for command in COMMANDS:
            job = targets.start(command, 0, NEW_ITEM - 1)
            job.process.join()
            if job.process.exitcode:
                raise RuntimeError(f"{command}: {job.said()}")
        return targets

    @property
    def bundle(self) -> Path:
        """The bundle."""
        return self.folder / "bundle"

    @property
    def packed(self) -> Path:
        """The packed data that `pack` replaces; the runs have others."""
        return self.folder / "world" / "packed" / "packed"

    @property
    def run(self) -> Path:
        """The run that `train` writes."""
        return self.folder / "trained"

    def arguments(self, command: str, variant: int) -> list[str]:
        """The arguments of a command, in one of its two variants."""
        config = self.folder / "world" / "config.yaml"
        items, (name, zones) = self.folder / f"items{variant}.parquet", PACKED
        by_command: dict[str, list[Any]] = {
            "export": [self.folder / ("run", "run1")[variant], self.bundle],
            "refresh": [self.bundle, config.parent / "log" / "*.parquet", f"--items={items}"],
            "publish": [self.bundle, self.store],
            "pack": [config, name, zones[variant]],
            "train": [config, f"--run={self.run}", ("--resume", "--overwrite")[variant], *TRAINED],
            "prune": [self.store],
        }
        names = ["store", "prune"] if command == "prune" else [command]
        return [*names, *map(str, by_command[command])]

    def fingerprint(self, variant: int) -> str:
        """The fingerprint of the packed data of a variant of `pack`."""
        config, name, zone = self.arguments("pack", variant)[1:]
        settings = read(Path(config), [setting.removeprefix("--set=") for setting in (name, zone)])
        return fingerprint(settings.data, settings.declared, Path(config).parent)

    def start(self, command: str, variant: int, number: int) -> "Job":
        """Start a command in a process; `number` names its output, and the item that it upserts."""
        out = self.folder / f"out-{number}"
        process = CONTEXT.Process(target=work, args=(self, command, variant, number, out))
        process.start()
        return Job(command, variant, number, process, out, time.monotonic())


@dataclass(frozen=True)
class Job:
    """A command in a process of its own."""

    command: str
    variant: int
    number: int
    process: ForkServerProcess
    out: Path
    began: float

    @property
    def killed(self) -> bool:
        """Whether it was killed before it ended."""
        return self.process.exitcode == -signal.SIGKILL

    @property
    def acknowledged(self) -> bool:
        """Whether it said that it had succeeded."""
        return self.process.exitcode == 0

    def said(self) -> str:
        """Its output."""
        return self.out.read_text(encoding="utf-8", errors="replace") if self.out.exists() else ""


def work(targets: Targets, command: str, variant: int, number: int, out: Path) -> None:
    """Run one command, with its output in a file."""
    with out.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if command == "upsert":
        try:
            put_item(targets, number)
        except CorankError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(1)
        return
    sys.argv = ["corank", *targets.arguments(command, variant)]
    main()


def put_item(targets: Targets, number: int) -> None:
    """Upsert an item as a service does: by the funnel of the version that was live when it was read."""
    rows = json.loads((targets.folder / "rows.json").read_text(encoding="utf-8"))
    item = rows[number % len(rows)] | {"id": NEW_ITEM + number, "worth": float(number)}
    with closing(open_store(targets.store)) as store:
        live = StoreState.read(store)[1].require_live(store)
        funnel = Funnel(fetch_bundle(store, live, targets.folder / "cache"))
        upsert(store, funnel, [item])


def finish_run(targets: Targets) -> Run:
    """Resume the run that `train` writes to its end."""
    settings = [setting.removeprefix("--set=") for setting in TRAINED]
    config = targets.folder / "world" / "config.yaml"
    return corank.train(config, settings, resume=True, folder=targets.run).run

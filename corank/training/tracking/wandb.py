"""Trainings written to Weights & Biases."""

import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal
from uuid import uuid4

from pydantic import PrivateAttr

from corank.core.errors import ConfigError
from corank.training.tracking.tracker import CALLBACKS, State, Tracker


@CALLBACKS.register("wandb")
class WandbCallback(Tracker):
    """Writes a training to Weights & Biases: hyper-parameters as its config, losses and metrics by step.

    Example:
        >>> wandb = corank.WandbCallback(project="shop", mode="offline")
        >>> corank.train("shop/config.yaml", callbacks=[wandb], folder="shop/runs/wandb").run.finished
        True
    """

    module: ClassVar[str] = "wandb"

    project: str | None = None
    """In which the run is; WANDB_PROJECT, or `corank`, by default."""
    entity: str | None = None
    """User or team; WANDB_ENTITY, or that of the API key, by default."""
    name: str | None = None
    """Of the run in W&B; the name of the run's folder by default."""
    mode: Literal["online", "offline"] | None = None
    """`offline` writes to `folder` alone, for `wandb sync`; WANDB_MODE, or online, by default."""
    folder: Path | None = None
    """Where W&B keeps its files; WANDB_DIR, or the working directory, by default."""

    _board: Any = PrivateAttr(None)
    _step: int = PrivateAttr(0)

    def open_run(self, name: str, settings: Mapping[str, Any], known: Mapping[str, str]) -> Mapping[str, str]:
        """Open a run, or continue the known one. Raises ConfigError without an API key: nobody is asked for it."""
        wandb = import_module("wandb")
        defaults = wandb.setup().settings
        if (self.mode or defaults.mode) == "online" and not wandb.login(prompt=False):
            raise ConfigError("no API key: call `wandb login`, set WANDB_API_KEY, or track with mode=offline")
        identity = known.get("run") or uuid4().hex[:12]
        self._board = wandb.init(
            project=self.project or defaults.project or "corank",
            entity=self.entity,
            name=self.name or name,
            id=identity,
            resume="allow",
            reinit="create_new",
            mode=self.mode,
            dir=self.folder,
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._step = self._board.step
        return {"run": identity}

    def write_figures(self, figures: Mapping[str, float], step: int) -> None:
        """Log figures, except for steps that a resumed run has already."""
        if step >= self._step:
            self._board.log(dict(figures), step=step)

    def write_facts(self, facts: Mapping[str, str | float]) -> None:
        """Write to the run's summary."""
        self._board.summary.update(dict(facts))

    def write_file(self, path: Path) -> None:
        """Save a copy of a file with the run; of a file elsewhere W&B keeps no more than a link until it is sent."""
        copy = Path(self._board.dir) / path.name
        shutil.copyfile(path, copy)
        self._board.save(str(copy), base_path=self._board.dir, policy="now")

    def close_run(self, state: State) -> None:
        """Write what is left, and end the run; any end but `finished` counts as a failure there."""
        self._board.finish(exit_code=0 if state == "finished" else 1)

"""Trainings written to SwanLab."""

import glob
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal
from uuid import uuid4

from pydantic import PrivateAttr

from corank.core.errors import ConfigError
from corank.training.tracking.tracker import CALLBACKS, State, Tracker

ENDED = {"finished": "success", "failed": "crashed", "stopped": "aborted"}


@CALLBACKS.register("swanlab")
class SwanlabCallback(Tracker):
    """Writes a training to SwanLab: hyper-parameters as its config, losses and metrics by step.

    A process has one run of SwanLab at a time.

    Example:
        >>> swanlab = corank.SwanlabCallback(project="shop", mode="offline")
        >>> corank.train("shop/config.yaml", callbacks=[swanlab], folder="shop/runs/swanlab").run.finished
        True
    """

    module: ClassVar[str] = "swanlab"

    project: str | None = None
    """In which the run is; SWANLAB_PROJECT, or `corank`, by default."""
    workspace: str | None = None
    """User or organisation; SWANLAB_WORKSPACE, or that of the API key, by default."""
    name: str | None = None
    """Of the run in SwanLab; the name of the run's folder by default."""
    mode: Literal["online", "offline"] | None = None
    """`offline` writes to `folder` alone, for `swanlab sync`; SWANLAB_MODE, or online, by default."""
    folder: Path | None = None
    """Where SwanLab keeps its files; SWANLAB_LOG_DIR, or `swanlog`, by default."""

    _board: Any = PrivateAttr(None)

    def open_run(self, name: str, settings: Mapping[str, Any], known: Mapping[str, str]) -> Mapping[str, str]:
        """Open a run, or continue the known one. Raises ConfigError without an API key: nobody is asked for it."""
        swanlab = import_module("swanlab")
        # what it says of its run is no part of what a command prints
        import_module("swanlab.sdk.internal.pkg.console").c.stderr = True
        defaults = swanlab.Settings()
        if (self.mode or defaults.mode) == "online" and not defaults.api_key:
            raise ConfigError(
                "no API key: call `swanlab login`, set SWANLAB_API_KEY, or track with mode=offline"
            )
        identity = known.get("run") or uuid4().hex[:12]
        self._board = swanlab.init(
            project=self.project or defaults.project.name or "corank",
            workspace=self.workspace,
            name=self.name or name,
            id=identity,
            resume="allow",
            mode=self.mode,
            log_dir=self.folder,
            config=dict(settings),
            settings=swanlab.Settings(interactive=False, terminal={"proxy_type": "none"}),
        )
        return {"run": identity}

    def write_figures(self, figures: Mapping[str, float], step: int) -> None:
        """Log figures; SwanLab leaves out those that a continued run has at this step already."""
        self._board.log(dict(figures), step=step)

    def write_facts(self, facts: Mapping[str, str | float]) -> None:
        """Write to the run's config, the only place there where a value can be replaced."""
        self._board.config.update(dict(facts))

    def write_file(self, path: Path) -> None:
        """Save a copy of a file with the run; of a file elsewhere SwanLab keeps but a link until it is sent."""
        folder = Path(self._board.dir)
        copy = folder / path.name
        shutil.copyfile(path, copy)
        self._board.save(glob.escape(str(copy)), base_path=str(folder), policy="now")

    def close_run(self, state: State) -> None:
        """Write what is left, and set the run's state."""
        self._board.finish(state=ENDED[state], error=None if state == "finished" else state)

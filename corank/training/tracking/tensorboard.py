"""The figures of a training as TensorBoard reads them, in `events/` of the run's folder."""

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from corank.training.callbacks import Callback, TrainingEnd, TrainingEvaluation, TrainingLog, TrainingStart

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter  # which loads torch


class TensorBoard(Callback):
    """Writes the `figures` of each `TrainingLog`, such as `loss/NAME`, and metrics as `valid/STAGE.LABEL.METRIC`.

    Every training has one. The events of a resumed training are those of an unbroken one.
    """

    def __init__(self) -> None:
        self._board: SummaryWriter | None = None

    def on_start(self, event: TrainingStart) -> None:
        """Open the folder; what an interrupted training wrote after its last checkpoint is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        folder = event.run.folder / "events"
        # files are read by name, which begins with the second: two of one second may be read in the wrong order
        while any(f".{int(time.time()):010d}." in path.name for path in folder.glob("events.*")):
            time.sleep(0.05)
        self._board = SummaryWriter(str(folder), purge_step=event.plan.step)

    def on_log(self, event: TrainingLog) -> None:
        """Write losses and speed."""
        self._record(event.figures, event.step)

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Write the metrics, NaN where one is not defined."""
        self._record({f"valid/{name}": value for name, value in event.metrics.items()}, event.step)

    def on_end(self, event: TrainingEnd) -> None:
        """Write what is left, and close."""
        if self._board is not None:
            self._board.close()

    def _record(self, figures: Mapping[str, float | None], step: int) -> None:
        assert self._board is not None
        for name, figure in figures.items():
            self._board.add_scalar(name, float("nan") if figure is None else figure, step)


def write_event_file(path: Path, figures: Mapping[str, float], step: int, seconds: float) -> None:
    """Write figures of one step into a file of its own, whole or not at all.

    Args:
        path: of the file; TensorBoard reads those of a folder whose names hold `tfevents`, in the order of the names.
        figures: by name.
        step: of all of them.
        seconds: when they were, since 1970.
    """
    from torch.utils.tensorboard import SummaryWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        board = SummaryWriter(folder)
        for name, figure in figures.items():
            board.add_scalar(name, figure, step, seconds)
        board.close()
        (written,) = Path(folder).iterdir()
        written.replace(path)

"""The commands that search for better settings, as functions on paths. Each raises a CorankError for a user's mistake."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corank.analysis.search.grid import Grid, build_grid
from corank.analysis.search.sweep import run_sweep
from corank.analysis.search.sweep_page import sweep_page
from corank.core.errors import CorankError
from corank.core.files import write_text
from corank.core.locks import WriteLock
from corank.core.types import Report
from corank.training.preparation.packed_data import open_or_pack
from corank.training.sufficiency import Sufficiency


def sweep(
    config: Path,
    grid: Grid,
    out: Path | None = None,
    seeds: int = 3,
    metric: str | None = None,
    overrides: Sequence[str] = (),
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Compare the arms of a grid of settings with the config as written, on the validation split.

    The best arm is written as a config beside the file, trained once more into `run/` of the folder, and that run alone
    is measured on the test split.

    Args:
        config: the YAML file.
        grid: values by key, such as `{"train.rank.lr": [0.001, 0.003]}`; the arms are their product.
        out: the sweep's folder; `sweeps/NAME` beside the config unless given. Trials that it holds are not trained
            again.
        seeds: seeds an arm.
        metric: the figure that chooses, such as `rank.click.auc` or `joint_click_recall`; the last stage's AUC unless
            given.
        overrides: `a.b=value` changes of the config, shared by all arms.
        report: takes a line about each training.

    Returns the document that is also written to `sweep.json`, beside the page `sweep.html`. Raises ConfigError,
    DataError, BusyError if another process writes the sweep, and CorankError if the folder cannot be written.

    Example:
        corank.sweep(Path("shop/config.yaml"), {"train.rank.lr": [0.001, 0.003]}, seeds=2)["chosen"]
    """
    arms = build_grid(config, overrides, grid)
    settings = arms.arms[0].config
    folder = out or config.parent / "sweeps" / settings.name
    with lock_search(folder, "sweep"):
        packed = open_or_pack(settings, config.parent, report)
        Sufficiency.of(settings, packed).require()
        document = run_sweep(config, arms, packed, folder, seeds, metric, report)
        write_text(folder / "sweep.html", sweep_page(document))
    return document


def lock_search(folder: Path, command: str) -> WriteLock:
    """Take the lock of a search's folder. Raises BusyError, CorankError if it cannot be written."""
    try:
        return WriteLock.of_folder(folder, command)
    except OSError as error:
        raise CorankError(f"{folder}: cannot be written: {error}; name another place with --out") from None

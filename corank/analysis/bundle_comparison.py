"""Two bundles compared on the same logged requests, as their funnels score them."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from corank.analysis.margins import Margins
from corank.analysis.score_comparison import ScoreChoice, compare_scores
from corank.core.errors import DataError
from corank.core.storage.object_url import Location


def is_bundle(location: Location) -> bool:
    """Whether a folder of this machine holds a bundle, as far as the names of its files tell."""
    return isinstance(location, Path) and (location / "manifest.json").is_file()


def compare_bundles(
    a: Location, b: Location, log: str, predict: Callable[[Location, Path], object], margins: Margins
) -> dict[str, Any]:
    """Compare what two bundles compute of each candidate of a log, whichever stage would have cut it.

    Args:
        a: a bundle.
        b: another, whose stages have the same names.
        log: the table of candidates, as users named it.
        predict: writes the scores of a bundle into a folder, as `corank predict` does.
        margins: differences that count.

    Returns the document of `corank compare --json` for scores. A candidate whose item one of them does not know is left
    out of both. Raises BundleError, DataError.
    """
    with TemporaryDirectory() as name:
        folders = [Path(name) / "a", Path(name) / "b"]
        for bundle, folder in zip((a, b), folders, strict=True):
            predict(bundle, folder)
        document = compare_scores(folders[0], folders[1], ScoreChoice(), margins)
    return document | {"a": str(a), "b": str(b), "log": log}


def require_log(log: str | None) -> str:
    """Raise DataError unless the log is named that bundles are compared on."""
    if log is None:
        raise DataError(
            "bundles are compared on logged requests: name their table by --on, such as log/*.parquet"
        )
    return log

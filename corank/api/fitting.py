"""From a frame to a funnel in one call: import, train and export, with the choices of `corank import lists`."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from weakref import finalize

import polars as pl

from corank.api.bundles import BundleResult, export
from corank.api.evaluating import evaluate
from corank.api.frames import TableSource
from corank.api.importing import LogSource, Names, import_lists
from corank.api.predicting import predict
from corank.api.results import EvaluationResult
from corank.api.training import TrainResult, train
from corank.core.objects import PathOrUrl, require_local
from corank.core.options import Overrides
from corank.core.reports import Report
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request


@dataclass(frozen=True, repr=False)
class FittedFunnel:
    """A trained funnel and its folder: what `fit` returns.

    Example:
        >>> log = pl.DataFrame({"shown": [[3, 5], [5, 8], [8, 3]] * 40, "clicked": [[0, 1], [1, 0], [1, 0]] * 40})
        >>> funnel = corank.fit(log, "shown", "clicked", overrides=["train.epochs=1", "baseline=false"])
        >>> sorted(item["id"] for item in funnel.rank({"user": {}, "candidates": [3, 5]})["items"])
        [3, 5]
    """

    folder: Path
    """Tables, `config.yaml`, packed data, `run` and `bundle`, as the commands leave them."""
    training: TrainResult
    """What `corank.train` returned: the run, the kept epoch, its validation metrics."""
    funnel: Funnel
    """The stages, opened for requests."""

    @property
    def config(self) -> str:
        """The config as YAML; `corank train` takes it as a file."""
        return (self.folder / "config.yaml").read_text(encoding="utf-8")

    def rank(self, request: Request | Mapping[str, Any]) -> dict[str, Any]:
        """Rank the candidates of a request, as `corank.Funnel.rank`. Raises RequestError."""
        return self.funnel.rank(request)

    def predict(self, log: TableSource, users: TableSource | None = None) -> pl.DataFrame:
        """Score every candidate of a log, as `corank.predict` of the run.

        Args:
            log: rows or lists in the form that `fit` took, with or without labels.
            users: the table of users (default: the one of `fit`).

        Returns a row a candidate, with `logit.STAGE.LABEL`, `probability.STAGE.LABEL` and `value.STAGE`. Raises
        DataError.
        """
        with TemporaryDirectory(prefix=".predicted.", dir=self.folder) as out:
            predict(self.training.run.folder, log, out, users=users)
            return pl.read_parquet(f"{out}/*.parquet")

    def evaluate(self, split: str = "test") -> EvaluationResult:
        """Evaluate each stage and the cascade on a split of the log, as `corank.evaluate`."""
        return evaluate(self.training.run.folder, split)

    def save(self, bundle: PathOrUrl) -> BundleResult:
        """Write the bundle that `corank serve` serves, as `corank.export` does. Raises BundleError."""
        return export(self.training.run.folder, bundle)

    def __repr__(self) -> str:
        stages = " → ".join(stage.name for stage in self.funnel.manifest.stages)
        return f"{type(self).__name__}({stages}, {self.folder})"


def fit(
    log: LogSource,
    candidates: str,
    labels: Names,
    user: str = "",
    time: str = "",
    request: Names = "",
    items: LogSource | None = None,
    users: LogSource | None = None,
    along: Names = "",
    history: str = "",
    overrides: Overrides = (),
    folder: PathOrUrl | None = None,
    report: Report = lambda line: None,
) -> FittedFunnel:
    """Train a pre-ranker and a ranker on a log without a config: `import_lists`, `train`, `export`.

    Args:
        log: a row an impression with a list of candidates, or a row an exposure: files, or a frame of polars, pandas or
            Arrow.
        candidates: the column of candidates, or of the item.
        labels: columns of labels; the first is the one to learn.
        user: the column of users.
        time: the column of times.
        request: columns that distinguish requests.
        items: a table of items.
        users: a table of users.
        along: columns known before ranking, an element a candidate.
        history: a column of the user's earlier items.
        overrides: `a.b=value` changes of the config, such as `train.seed=1`.
        folder: a new or empty folder for tables, run and bundle. By default they are temporary, and go with the funnel.
        report: takes lines about each step.

    Returns the funnel. Raises DataError, ConfigError.

    Example:
        >>> log = pl.read_parquet("shop/log/*.parquet").filter(level="exposed")
        >>> log = log.select("request_id", "user_id", "time", "device", "item_id", "is_click")
        >>> funnel = corank.fit(log, candidates="item_id", labels="is_click", request="request_id", user="user_id",
        ...     time="time", items="shop/items.parquet")
        >>> funnel.evaluate().row("rank.exposed.click.auc")["value"] > 0.4
        True
    """
    roles: dict[str, Any] = {
        "candidates": candidates,
        "labels": labels,
        "user": user,
        "time": time,
        "request": request,
        "items": items,
        "users": users,
        "along": along,
        "history": history,
    }
    if folder is not None:
        return _fit(log, require_local(folder), roles, overrides, report)
    with ExitStack() as unfinished:
        made = Path(mkdtemp(prefix="corank."))
        unfinished.callback(rmtree, made)
        funnel = _fit(log, made / "funnel", roles, overrides, report)
        finalize(funnel, unfinished.pop_all().close)
    return funnel


def _fit(
    log: LogSource, folder: Path, roles: Mapping[str, Any], overrides: Overrides, report: Report
) -> FittedFunnel:
    imported = import_lists(log, folder, **roles, report=report)
    training = train(imported.config, overrides, folder=folder / "run", report=report)
    exported = export(training.run.folder, folder / "bundle")
    return FittedFunnel(folder, training, Funnel(exported.bundle))

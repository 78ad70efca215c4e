"""A funnel as a model of MLflow: logged with its bundle, registered under a name, loaded as a pyfunc.

It needs the extra `mlflow`, and pandas, which pyfunc models take and return. Nothing of it is pickled.

Example:
    >>> import corank.mlflow
    >>> rows = pl.read_parquet("shop/log/*.parquet").head(200).drop("is_click")
    >>> logged = corank.mlflow.log_model("bundle", example=rows, users="shop/users.parquet")
    >>> example = rows.with_columns(pl.col("time").dt.replace_time_zone(None)).to_pandas()
    >>> corank.mlflow.load_model(logged.model_uri).predict(example).columns[-1]
    'value.rank'
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl

from corank.api.bundles import export
from corank.api.frames import TableSource, temporary_frames
from corank.api.predicting import predict
from corank.bundle.bundle import Bundle
from corank.core.lazy import require
from corank.core.objects import PathOrUrl, parse_location
from corank.training.run_file import RUN_FILE

if TYPE_CHECKING:
    from pandas import DataFrame

USERS = "users.parquet"
"""The table of users in a model, if its bundle reads one."""


def log_model(
    source: PathOrUrl,
    example: TableSource,
    name: str = "funnel",
    users: TableSource | None = None,
    registered_model_name: str | None = None,
    requirements: Sequence[str] = (),
) -> Any:
    """Log a run or a bundle to the active run of MLflow as a pyfunc model.

    Args:
        source: the folder of a finished run, which is exported, or of a bundle.
        example: some rows to predict, in the form that `corank.predict` takes. They give the model's signature, whose
            times have no zone: they are UTC.
        name: of the model in the run.
        users: the table of users, if the bundle reads one.
        registered_model_name: the name to register it under.
        requirements: how pip installs corank where the model is served, such as the path of its wheel.

    Returns MLflow's `ModelInfo`. Raises BundleError, DataError, MissingExtraError.
    """
    pyfunc = require("mlflow.pyfunc", "corank.mlflow")
    infer_signature = require("mlflow.models", "corank.mlflow").infer_signature
    with TemporaryDirectory() as folder, temporary_frames() as frames:
        data = Path(folder) / "model"
        location = parse_location(source)
        if isinstance(location, Path) and not (location / RUN_FILE).is_file():
            Bundle.open(location)
            copytree(location, data / "bundle")
        else:
            data.mkdir()
            export(source, data / "bundle")
        if users is not None:
            pl.scan_parquet(frames.source("users", users)).sink_parquet(data / USERS)
        rows = _without_zones(pl.read_parquet(frames.source("example", example))).to_pandas()
        signature = infer_signature(rows, ServedFunnel(data).predict(rows))
        return pyfunc.log_model(
            name=name,
            loader_module=__name__,
            data_path=str(data),
            signature=signature,
            input_example=rows,
            pip_requirements=[*_base_requirements(), *requirements],
            registered_model_name=registered_model_name,
        )


def load_model(uri: str) -> Any:
    """Load a logged or registered model, as a pyfunc, whose `predict` takes and returns pandas.

    Args:
        uri: such as `models:/shop@live` or `runs:/RUN/funnel`.

    Raises MissingExtraError.
    """
    return require("mlflow.pyfunc", "corank.mlflow").load_model(uri)


@dataclass(frozen=True)
class ServedFunnel:
    """What MLflow loads: `predict` gives what `corank.predict` of the bundle writes, with today's priors and items."""

    folder: Path
    """The bundle, and the table of users."""

    def predict(self, rows: "DataFrame", params: dict[str, Any] | None = None) -> "DataFrame":
        """Score every candidate. `params` is MLflow's; the model has none."""
        users = self.folder / USERS
        with TemporaryDirectory() as out:
            given = users if users.exists() else None
            predict(self.folder / "bundle", rows, Path(out) / "scores", users=given, as_served=True)
            return pl.read_parquet(f"{out}/scores/*.parquet").to_pandas()


def _without_zones(rows: pl.DataFrame) -> pl.DataFrame:
    """Times in UTC: the signature of a model has no zones, and corank reads a time without one as UTC."""
    zoned = pl.selectors.datetime(time_zone="*")
    return rows.with_columns(zoned.dt.convert_time_zone("UTC").dt.replace_time_zone(None))


def _load_pyfunc(path: str) -> ServedFunnel:
    """Open a model: MLflow calls it by this name."""
    return ServedFunnel(Path(path))


def _base_requirements() -> list[str]:
    """What a bundle needs to rank, pinned to what is installed here; corank itself has no index to come from."""
    names = [line.partition(";") for line in requires("corank") or ()]
    bare = [_name(line) for line, _, marker in names if "extra" not in marker]
    return [f"{name}=={version(name)}" for name in [*bare, "pandas"]]


def _name(requirement: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(requirement).name

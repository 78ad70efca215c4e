"""A bundle as a model of MLflow: registered in a database, loaded as a pyfunc, equal to `predict`."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import corank
import corank.mlflow
from corank.core.errors import BundleError, DataError

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),  # MLflow's own
]


@pytest.fixture
def rows(world: Path) -> pl.DataFrame:
    log = pl.read_parquet(world / "log" / "*.parquet").tail(300).drop("is_click", "position")
    return log.with_columns(pl.col("time").dt.replace_time_zone(None))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import mlflow

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield
    mlflow.set_tracking_uri("")


@pytest.mark.usefixtures("registry")
def test_a_registered_model_predicts_what_predict_writes(
    world: Path, trained_bundle: Path, rows: pl.DataFrame, tmp_path: Path
) -> None:
    import mlflow

    users = world / "users.parquet"
    with mlflow.start_run():
        zoned = rows.with_columns(pl.col("time").dt.replace_time_zone("UTC"))
        corank.mlflow.log_model(trained_bundle, zoned, users=users, registered_model_name="shop")
    mlflow.MlflowClient().set_registered_model_alias("shop", "live", "1")
    scores = corank.mlflow.load_model("models:/shop@live").predict(rows.to_pandas())
    corank.predict(trained_bundle, rows, tmp_path / "scores", users=users, as_served=True)
    expected = pl.read_parquet(tmp_path / "scores" / "*.parquet")
    for column in expected.columns:
        if column.startswith(("logit", "probability", "value")):
            assert pl.Series(column, scores[column]).equals(expected[column])


@pytest.mark.usefixtures("registry")
def test_a_mistake_is_named_and_logs_nothing(world: Path, trained_bundle: Path, rows: pl.DataFrame) -> None:
    import mlflow

    users = world / "users.parquet"
    with mlflow.start_run() as run:
        with pytest.raises(DataError, match="item_id"):
            corank.mlflow.log_model(trained_bundle, rows.drop("item_id"), users=users)
        with pytest.raises(BundleError, match="nowhere"):
            corank.mlflow.log_model(world / "nowhere", rows)
    assert not mlflow.MlflowClient().list_artifacts(run.info.run_id)

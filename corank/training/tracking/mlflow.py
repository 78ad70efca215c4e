"""Trainings written to MLflow."""

import json
import os
import re
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from corank.core.formatting import shorten
from corank.training.tracking.tracker import CALLBACKS, State, Tracker

LONGEST_VALUE = 5999
"""Characters of a parameter; MLflow takes 6000, and `shorten` adds one."""
LONGEST_NAME = 250
PARAMETERS, METRICS = 100, 1000
"""Parameters and metrics of one call; MLflow's limits."""
ENDED = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


@CALLBACKS.register("mlflow")
class MlflowCallback(Tracker):
    """Writes a training to MLflow: hyper-parameters as parameters, losses and metrics as metrics by step.

    Example:
        >>> mlflow = corank.MlflowCallback(uri="sqlite:///mlflow.db", experiment="shop")  # or http://mlflow:5000
        >>> corank.train("shop/config.yaml", callbacks=[mlflow], folder="shop/runs/mlflow").run.finished
        True
    """

    module: ClassVar[str] = "mlflow"

    uri: str | None = None
    """Of the tracking server or database; MLFLOW_TRACKING_URI, or what MLflow takes without it, by default."""
    experiment: str | None = None
    """In which the run is; MLFLOW_EXPERIMENT_NAME, or `corank`, by default."""
    name: str | None = None
    """Of the run in MLflow; the name of the run's folder by default."""

    _client: Any = PrivateAttr(None)
    _id: str = PrivateAttr("")
    _goes_on: bool = PrivateAttr(False)
    _last: dict[str, int] = PrivateAttr(default_factory=dict)

    def open_run(self, name: str, settings: Mapping[str, Any], known: Mapping[str, str]) -> Mapping[str, str]:
        """Make a run in the experiment, which is made if need be, or continue the known one of the same server."""
        mlflow = import_module("mlflow")
        self._client = mlflow.MlflowClient(tracking_uri=self.uri)
        uri: str = self._client.tracking_uri
        self._last, self._goes_on = {}, known.get("uri") == uri and "run" in known
        if self._goes_on:
            self._id = known["run"]
            self._client.update_run(self._id, status="RUNNING")
            return known
        experiment = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "corank"
        entry = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if entry is None else entry.experiment_id
        self._id = self._client.create_run(number, run_name=self.name or name).info.run_id
        entities = import_module("mlflow.entities")
        parameters = [
            entities.Param(_name(key), shorten(_text(value), LONGEST_VALUE))
            for key, value in settings.items()
        ]
        for at in range(0, len(parameters), PARAMETERS):
            self._client.log_batch(self._id, params=parameters[at : at + PARAMETERS])
        return {"uri": uri, "run": self._id}

    def write_figures(self, figures: Mapping[str, float], step: int) -> None:
        """Log metrics, except those that a resumed run has at this step already."""
        new = {_name(key): value for key, value in figures.items()}
        new = {key: value for key, value in new.items() if step > self._last_step(key)}
        metric, now = import_module("mlflow.entities").Metric, int(time.time() * 1000)
        metrics = [metric(key, value, now, step) for key, value in new.items()]
        for at in range(0, len(metrics), METRICS):
            self._client.log_batch(self._id, metrics=metrics[at : at + METRICS])
        self._last.update(dict.fromkeys(new, step))

    def write_facts(self, facts: Mapping[str, str | float]) -> None:
        """Log numbers as metrics at step 0, and texts as tags."""
        for key, value in facts.items():
            if isinstance(value, str):
                self._client.set_tag(self._id, _name(key), value)
            else:
                self._client.log_metric(self._id, _name(key), value, step=0)

    def write_file(self, path: Path) -> None:
        """Log an artifact."""
        self._client.log_artifact(self._id, str(path))

    def close_run(self, state: State) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._id, ENDED[state])

    def _last_step(self, key: str) -> int:
        """The last step at which a metric is there; -1 if it is not."""
        if key not in self._last:
            history = self._client.get_metric_history(self._id, key) if self._goes_on else []
            self._last[key] = max((metric.step for metric in history), default=-1)
        return self._last[key]


def _name(key: str) -> str:
    """A key as MLflow takes it: letters, digits and some marks."""
    return re.sub(r"[^/\w.\- :]", "_", key)[:LONGEST_NAME]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

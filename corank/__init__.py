"""corank trains the pre-ranker and the ranker of a funnel as one model.

Every command of the command line is a function of this package: `corank.train("shop.yaml")`. A config is a file, a
mapping or `corank.Config`; a table is files or a frame; results have `tables`, `plot()` and `to_json()`.
`corank.Funnel` ranks requests in process. Names are loaded when they are first used, so `import corank` is quick,
and a service that only ranks never loads torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from corank.core.lazy import name_missing_extra

if TYPE_CHECKING:
    __version__: str
    from corank import config as config
    from corank.api.bundles import (
        BundleResult,
        PublishResult,
        compare_cases,
        conformance,
        export,
        rank,
        refresh,
    )
    from corank.api.datasets import simulate
    from corank.api.evaluating import compare, compare_served, evaluate
    from corank.api.experiments import experiment, study, sweep, tune
    from corank.api.measuring import DriftResult, ReportPage, explain, report, request, track
    from corank.api.results import (
        ComparisonResult,
        EvaluationResult,
        ExplanationResult,
        GroupsResult,
        SearchResult,
        ServedComparisonResult,
        StudyResult,
    )
    from corank.api.runs import CheckResult, PackResult, check, pack
    from corank.api.serving import serve, token
    from corank.api.stores import (
        predict,
        promote,
        prune,
        publish,
        replay,
        roll_back,
        store_log,
        store_versions,
        users,
        vectors,
        withdraw,
    )
    from corank.api.training import TrainResult, train
    from corank.continual.daily import daily
    from corank.continual.daily_result import DailyResult
    from corank.core.registry import load_plugins
    from corank.serving.funnel.funnel import Funnel
    from corank.serving.funnel.request import Request
    from corank.training.callbacks import Callback
    from corank.training.config.config import Config
    from corank.training.tracking.mlflow import MlflowCallback
    from corank.training.tracking.wandb import WandbCallback

__all__ = [
    "BundleResult",
    "Callback",
    "CheckResult",
    "ComparisonResult",
    "Config",
    "DailyResult",
    "DriftResult",
    "EvaluationResult",
    "ExplanationResult",
    "Funnel",
    "GroupsResult",
    "MlflowCallback",
    "PackResult",
    "PublishResult",
    "ReportPage",
    "Request",
    "SearchResult",
    "ServedComparisonResult",
    "StudyResult",
    "TrainResult",
    "WandbCallback",
    "__version__",
    "check",
    "compare",
    "compare_cases",
    "compare_served",
    "conformance",
    "daily",
    "evaluate",
    "experiment",
    "explain",
    "export",
    "load_plugins",
    "pack",
    "predict",
    "promote",
    "prune",
    "publish",
    "rank",
    "refresh",
    "replay",
    "report",
    "request",
    "roll_back",
    "serve",
    "simulate",
    "store_log",
    "store_versions",
    "study",
    "sweep",
    "token",
    "track",
    "train",
    "tune",
    "users",
    "vectors",
    "withdraw",
]

_MODULE_OF = {
    "Callback": "corank.training.callbacks",
    "MlflowCallback": "corank.training.tracking.mlflow",
    "WandbCallback": "corank.training.tracking.wandb",
    "Config": "corank.training.config.config",
    "Funnel": "corank.serving.funnel.funnel",
    "Request": "corank.serving.funnel.request",
    "load_plugins": "corank.core.registry",
    "train": "corank.api.training",
    "ServedComparisonResult": "corank.api.results",
    "TrainResult": "corank.api.training",
    "DriftResult": "corank.api.measuring",
    "ReportPage": "corank.api.measuring",
    "CheckResult": "corank.api.runs",
    "PackResult": "corank.api.runs",
    **dict.fromkeys(("BundleResult", "PublishResult"), "corank.api.bundles"),
    **dict.fromkeys(("ComparisonResult", "EvaluationResult", "GroupsResult"), "corank.api.results"),
    **dict.fromkeys(("ExplanationResult", "SearchResult", "StudyResult"), "corank.api.results"),
    **dict.fromkeys(
        ("check", "pack"),
        "corank.api.runs",
    ),
    **dict.fromkeys(("compare_cases", "conformance", "export", "rank", "refresh"), "corank.api.bundles"),
    **dict.fromkeys(("compare", "compare_served", "evaluate"), "corank.api.evaluating"),
    **dict.fromkeys(("explain", "report", "request"), "corank.api.measuring"),
    **dict.fromkeys(("experiment", "study", "sweep", "tune"), "corank.api.experiments"),
    **dict.fromkeys(("predict", "publish", "vectors"), "corank.api.stores"),
    **dict.fromkeys(
        ("promote", "prune", "replay", "roll_back", "store_log", "store_versions", "withdraw"),
        "corank.api.stores",
    ),
    **dict.fromkeys(("serve", "token"), "corank.api.serving"),
    "simulate": "corank.api.datasets",
    "track": "corank.api.measuring",
    "users": "corank.api.stores",
    "daily": "corank.continual.daily",
    "DailyResult": "corank.continual.daily_result",
}


# libraries read these when they are imported, and report nothing to their makers; what the user has set stays
for _variable, _off in {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_variable, _off)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, and the version, whose look-up takes longer than the import.

    Raises MissingExtraError if the name needs a part that is not installed.
    """
    if name == "__version__":
        from corank.core.version import corank_version

        return corank_version()
    if name == "config":
        return import_module("corank.config")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'corank' has no attribute '{name}'")
    with name_missing_extra(f"corank.{name}"):
        return getattr(import_module(_MODULE_OF[name]), name)

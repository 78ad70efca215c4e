"""corank trains the pre-ranker and the ranker of a funnel as one model.

Every command of the command line is a function of this package: `corank.train("shop.yaml")`, `corank.import_lists(…)`
for `corank import lists`. A config is a file, a mapping or `corank.Config`; a table is files or a frame; results have
`tables`, `plot()` and `to_json()`.
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
    from corank.api.bundles import BundleResult as BundleResult
    from corank.api.bundles import compare_cases as compare_cases
    from corank.api.bundles import conformance as conformance
    from corank.api.bundles import export as export
    from corank.api.bundles import rank as rank
    from corank.api.bundles import refresh as refresh
    from corank.api.datasets import simulate as simulate
    from corank.api.evaluating import compare as compare
    from corank.api.evaluating import evaluate as evaluate
    from corank.api.experiments import experiment as experiment
    from corank.api.experiments import tune as tune
    from corank.api.fitting import FittedFunnel as FittedFunnel
    from corank.api.fitting import fit as fit
    from corank.api.importing import ImportResult as ImportResult
    from corank.api.importing import import_kuairand as import_kuairand
    from corank.api.importing import import_lists as import_lists
    from corank.api.joining import JoinResult as JoinResult
    from corank.api.joining import join as join
    from corank.api.measuring import DriftResult as DriftResult
    from corank.api.measuring import ReportPage as ReportPage
    from corank.api.measuring import explain as explain
    from corank.api.measuring import report as report
    from corank.api.measuring import request as request
    from corank.api.measuring import track as track
    from corank.api.predicting import predict as predict
    from corank.api.predicting import vectors as vectors
    from corank.api.results import ComparisonResult as ComparisonResult
    from corank.api.results import EvaluationResult as EvaluationResult
    from corank.api.results import ExperimentResult as ExperimentResult
    from corank.api.results import ExplanationResult as ExplanationResult
    from corank.api.runs import CheckResult as CheckResult
    from corank.api.runs import PackResult as PackResult
    from corank.api.runs import check as check
    from corank.api.runs import pack as pack
    from corank.api.training import TrainResult as TrainResult
    from corank.api.training import train as train
    from corank.core.registry import load_plugins as load_plugins
    from corank.funnel.funnel import Funnel as Funnel
    from corank.funnel.request import Request as Request
    from corank.training.callbacks import Callback as Callback
    from corank.training.config.config import Config as Config
    from corank.training.tracking.mlflow import MlflowCallback as MlflowCallback
    from corank.training.tracking.wandb import WandbCallback as WandbCallback
    from corank_continual.follow import follow_items as follow_items
    from corank_continual.follow import follow_log as follow_log
    from corank_continual.follow import follow_users as follow_users
    from corank_continual.periods.daily import daily as daily
    from corank_continual.periods.daily_result import DailyResult as DailyResult
    from corank_serve.api.served import ServedComparisonResult as ServedComparisonResult
    from corank_serve.api.served import compare_served as compare_served
    from corank_serve.api.serving import serve as serve
    from corank_serve.api.serving import token as token
    from corank_serve.api.stores import PublishResult as PublishResult
    from corank_serve.api.stores import promote as promote
    from corank_serve.api.stores import prune as prune
    from corank_serve.api.stores import publish as publish
    from corank_serve.api.stores import replay as replay
    from corank_serve.api.stores import roll_back as roll_back
    from corank_serve.api.stores import store_log as store_log
    from corank_serve.api.stores import store_versions as store_versions
    from corank_serve.api.stores import users as users
    from corank_serve.api.stores import withdraw as withdraw

_NAMES = {
    "corank.api.bundles": "BundleResult compare_cases conformance export rank refresh",
    "corank.api.datasets": "simulate",
    "corank.api.evaluating": "compare evaluate",
    "corank.api.experiments": "experiment tune",
    "corank.api.fitting": "FittedFunnel fit",
    "corank.api.importing": "ImportResult import_kuairand import_lists",
    "corank.api.joining": "JoinResult join",
    "corank.api.measuring": "DriftResult ReportPage explain report request track",
    "corank.api.results": "ComparisonResult EvaluationResult ExperimentResult ExplanationResult",
    "corank.api.runs": "CheckResult PackResult check pack",
    "corank.api.predicting": "predict vectors",
    "corank.api.training": "TrainResult train",
    "corank.core.registry": "load_plugins",
    "corank.funnel.funnel": "Funnel",
    "corank.funnel.request": "Request",
    "corank.training.callbacks": "Callback",
    "corank.training.config.config": "Config",
    "corank.training.tracking.mlflow": "MlflowCallback",
    "corank.training.tracking.wandb": "WandbCallback",
}
"""The public names of this package by module; other packages add theirs."""
MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
"""The module of each public name of this package."""


def public_modules() -> dict[str, str]:
    """The module of each public name, of this package and of others. Raises PluginError if one cannot be imported."""
    from corank.core.package import installed_packages

    others = (package.modules for package in installed_packages().values())
    return {name: module for modules in (*others, MODULES) for name, module in modules.items()}


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
    if name == "__all__":
        return sorted([*public_modules(), "__version__"])
    if name.startswith("_"):
        raise AttributeError(f"module 'corank' has no attribute '{name}'")
    if (module := MODULES.get(name) or public_modules().get(name)) is not None:
        with name_missing_extra(f"corank.{name}"):
            return getattr(import_module(module), name)
    if name.startswith("import_"):
        from corank.datasets.importer import IMPORTERS

        if (importer := name.removeprefix("import_")) in IMPORTERS:
            return import_module("corank.api.importing").import_function(importer)
    raise AttributeError(f"module 'corank' has no attribute '{name}'")

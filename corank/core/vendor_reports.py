"""What dependencies report to their makers of the machine and of what they run: nothing, unless the user lets them."""

import os

VENDOR_REPORTS = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""By variable of the environment the value with which ONNX Runtime, MLflow, W&B and Ray report nothing.

ONNX Runtime also keeps a number of the machine and a database of events in the user's cache otherwise.
"""


def disable_reports() -> None:
    """Set the variables that the user has not set, for this process and those that it starts.

    The libraries read them when they are imported, so this comes first.
    """
    for name, value in VENDOR_REPORTS.items():
        os.environ.setdefault(name, value)

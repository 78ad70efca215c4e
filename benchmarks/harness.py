"""Output of a benchmark: its figures and its aims, as a table or as one JSON document."""

import json
import operator
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from corank.core.formatting import format_figure
from docs_site.result_tables import code_of

COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}
Figure = float | int | str


def report(
    name: str, figures: Mapping[str, Figure], aims: Mapping[str, tuple[str, float]], as_json: bool = False
) -> None:
    """Print `figures`, and whether each of `aims` (figure → operator and value) is met, to stdout.

    An aim that is not met is said, and is no error; one without a figure is a fault of the benchmark.
    """
    met = {key: COMPARE[op](figures[key], value) for key, (op, value) in aims.items()}
    if as_json:
        judged = {key: [op, value, met[key]] for key, (op, value) in aims.items()}
        document = {"name": name, "machine": machine(), "figures": dict(figures), "aims": judged}
        document |= {"date": datetime.now(UTC).date().isoformat(), "code": code_of(name)}
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
        return
    table = Table("figure", title=name, title_justify="left")
    table.add_column("value", justify="right")
    if aims:
        table.add_column("aim")
    for key in figures:
        if key.endswith((".low", ".high")) and key not in aims:
            continue  # an interval is shown next to its figure
        aim = "{} {}: {}".format(*aims[key], "met" if met[key] else "NOT met") if key in aims else ""
        table.add_row(key, _with_interval(key, figures), *([aim] if aims else []))
    console = Console()
    console.print(table)
    console.print(machine(), highlight=False)


def _with_interval(key: str, figures: Mapping[str, Figure]) -> str:
    bounds = [figures[f"{key}.{end}"] for end in ("low", "high") if f"{key}.{end}" in figures]
    return format_figure(figures[key]) + (f" [{' … '.join(map(format_figure, bounds))}]" if bounds else "")


def machine() -> str:
    """Processor, cores that this process may use, the GPU if there is one, and the versions that speed depends on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{_processor()}, {cores} cores{gpu}, Python {platform.python_version()}, torch {torch.__version__}"
    )


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

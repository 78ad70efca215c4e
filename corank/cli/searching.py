"""The commands that search for better settings."""

from pathlib import Path
from typing import Annotated

import typer

from corank.cli.options import Json, local_path, print_json
from corank.cli.training import ConfigPath, Overrides

searching = typer.Typer()

Metric = Annotated[
    str | None,
    typer.Option(
        help="Figure of the validation split that chooses, such as rank.click.auc or joint_click_recall; "
        "default: the last stage's AUC."
    ),
]


@searching.command("sweep")
def sweep_command(
    config: ConfigPath,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE", help="Values of a key to compare; repeatable, all combinations."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds an arm.")] = 3,
    metric: Metric = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="The sweep's folder; default: sweeps/NAME beside CONFIG."),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Compare settings with the config as written, with paired intervals; an interrupted sweep continues."""
    from corank.analysis.search.grid import parse_grid
    from corank.api import searching as api
    from corank.cli import console, search_tables

    document = api.sweep(config, parse_grid(grid or []), out, seeds, metric, overrides or [], console.say)
    print_json(document) if as_json else search_tables.show_sweep(document)

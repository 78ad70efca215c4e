"""The commands that search for better settings."""

from pathlib import Path
from typing import Annotated

import typer

from corank.cli.options import Json, local_path, print_text
from corank.cli.training import ConfigPath, Overrides, check_first

searching = typer.Typer()

Metric = Annotated[
    str | None,
    typer.Option(
        help="Figure of the validation split that chooses, such as rank.click.auc or joint_click_recall; "
        "default: the last stage's GAUC."
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
    check_first(config, overrides)
    from corank.analysis.experiments.space import parse_grid
    from corank.api import experiments as api
    from corank.cli import console

    result = api.sweep(config, parse_grid(grid or []), out, seeds, metric, overrides or [], console.say)
    print_text(result.to_json()) if as_json else console.show(result.view())


@searching.command("tune")
def tune_command(
    config: ConfigPath,
    trials: Annotated[
        int, typer.Option(min=2, help="How many trainings, the config as written among them.")
    ] = 30,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same trials.")] = 0,
    metric: Metric = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=RANGE",
            help="LOW..HIGH, LOW..HIGH log, or VALUE,VALUE; repeatable. Default: learning rates, widths, dropout, "
            "smoothing, weights of losses.",
        ),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(parser=local_path, metavar="FILE", help="A YAML file of keys and their ranges."),
    ] = None,
    budget_us: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Microseconds that a request may take: searches widths, features and the first stage's quota for the "
            "best recall within it, and prints the frontier.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="The tuning's folder; default: tunings/NAME beside CONFIG."),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Search for better settings by Optuna, of the extra `tune`; an interrupted search continues."""
    check_first(config, overrides)
    from corank.api import experiments as api
    from corank.cli import console

    result = api.tune(
        config, trials, seed, metric, search or [], space, budget_us, out, overrides or [], console.say
    )
    print_text(result.to_json()) if as_json else console.show(result.view())

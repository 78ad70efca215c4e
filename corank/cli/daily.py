"""`corank daily`: the job that a scheduler starts."""

from pathlib import Path
from typing import Annotated

import typer

from corank.cli.options import REFUSED, Json, local_path, print_text

daily = typer.Typer()


def _periods(what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar="PERIOD", help=f"{what}; may be repeated.")
    return option


@daily.command("daily")
def daily_command(
    settings: Annotated[Path, typer.Argument(parser=local_path, metavar="CONFIG", help="Settings in YAML.")],
    accept: Annotated[
        list[str] | None, _periods("Take the tables of a period, such as 2026-04-27, as they are")
    ] = None,
    skip: Annotated[list[str] | None, _periods("Do not train a period")] = None,
    retry: Annotated[list[str] | None, _periods("Try a period again that is not live")] = None,
    undo: Annotated[
        str | None,
        typer.Option(
            metavar="PERIOD", help="Go back to the period before one that went live, in the store, too."
        ),
    ] = None,
    items_as_of: Annotated[
        str | None,
        typer.Option(
            metavar="CHANGE|TIME",
            help="What the table of items contains: all until a change of the store, or until a time.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train every period that is due on what came since; publish what the gate lets through.

    Exit status 0: the newest period is live, or none is due; 3: it was refused, and the version before it stays live.
    """
    from corank.cli import console
    from corank.continual.daily import daily as run_daily

    result = run_daily(settings, accept or [], skip or [], retry or [], console.say, items_as_of, undo)
    print_text(result.to_json()) if as_json else console.show(result.view())
    for line in (*result.lines, *result.reasons):
        console.say(line)
    if result.reasons:
        raise typer.Exit(REFUSED)

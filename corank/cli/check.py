"""`corank check`: a config and its tables, and new rows of them against a run."""

from typing import Annotated

import typer

from corank.cli.options import Json, print_text
from corank.cli.training import ConfigPath, Overrides, Without, check_first

REFUSED = 3
"""The exit status if new rows break a threshold of the config."""

checking = typer.Typer()


@checking.command("check")
def check_command(
    config: ConfigPath,
    overrides: Overrides = None,
    without: Without = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Compare the rows since the training of RUN with those of it instead; exit status 3 if refused.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which feature enters which tower, and what there is to learn from; refuse what could not learn."""
    check_first(config, overrides, without)
    from corank.api import runs
    from corank.cli import console
    from corank.cli.printing.profile_tables import show_profile
    from corank.cli.printing.validation_table import show_refusal, show_validation

    if against is not None:
        validation = runs.check(config, overrides or [], without or [], console.say, against=against)
        print_text(validation.to_json()) if as_json else show_validation(validation)
        if not validation.accepted:
            show_refusal(validation)
            raise typer.Exit(REFUSED)
        return
    check = runs.check(config, overrides or [], without or [], console.say)
    if as_json:
        print_text(check.to_json())
    else:
        console.show_check(check)
        show_profile(check.profile)
    check.data_check.require()

"""The commands that evaluate runs and compare them."""

from typing import Annotated

import typer

from corank.cli.options import Json, print_json
from corank.cli.training import RunPath

evaluating = typer.Typer()

Split = Annotated[str, typer.Option(help="train, valid or test.")]
Page = Annotated[str | None, typer.Option(help="Write an HTML page, too: its file or URL.")]


@evaluating.command("evaluate")
def evaluate_command(
    run: RunPath,
    split: Split = "test",
    reference: Annotated[
        str | None,
        typer.Option(metavar="RUN2", help="A run on the same data without selection bias: bias regret."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="day|NAME",
            help="Evaluate group by group: by day, by a feature, or by a column of the log.",
        ),
    ] = None,
    page: Page = None,
    as_json: Json = False,
) -> None:
    """Evaluate the stages alone and as a cascade, with 95 % intervals."""
    from corank.api import evaluating as api
    from corank.cli import console
    from corank.cli.printing.comparison_tables import show_groups

    document = api.evaluate(run, split, reference=reference, by=by, page=page)
    if as_json:
        print_json(document)
    elif by is None:
        console.show_evaluation(document)
    else:
        show_groups(document)


@evaluating.command("compare")
def compare_command(
    a: RunPath,
    b: Annotated[str, typer.Argument(metavar="RUN2", help="Another run of the same log and split.")],
    split: Split = "test",
    page: Page = None,
    as_json: Json = False,
) -> None:
    """Compare two runs on the same candidates, with paired 95 % intervals over users and a verdict per metric."""
    from corank.api import evaluating as api
    from corank.cli.printing.comparison_tables import show_comparison

    document = api.compare(a, b, split, page)
    print_json(document) if as_json else show_comparison(document)

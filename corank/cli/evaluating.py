"""The commands that evaluate runs and compare them."""

from typing import Annotated

import typer

from corank.cli.options import Events, Json, print_text, read_names
from corank.cli.training import RunPath

evaluating = typer.Typer()

Split = Annotated[str, typer.Option(help="train, valid or test.")]
On = Annotated[
    str | None,
    typer.Option(
        metavar="PACKED|RUN",
        help="Packed data of other days or another packing to judge on, or a run that has them.",
    ),
]
Truth = Annotated[
    str | None, typer.Option(help="Of bundles: the table of true probabilities of a simulated world.")
]
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
    on: On = None,
    as_json: Json = False,
) -> None:
    """Evaluate the stages alone and as a cascade, with 95 % intervals."""
    from corank.api import evaluating as api
    from corank.cli import console
    from corank.cli.printing.comparison_tables import show_groups
    from corank.cli.progress import counting

    with counting("requests", summary=False) as progress:
        found = api.evaluate(run, split, reference=reference, by=by, page=page, progress=progress, on=on)
    if as_json:
        print_text(found.to_json())
    elif by is None:
        console.show_evaluation(found.document)
    else:
        show_groups(found.document)


@evaluating.command("compare")
def compare_command(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A run, a bundle, or Parquet with scores: a file or a folder.")
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="Another run, on whose packed data both are judged, or bundle; or scores of the same rows.",
        ),
    ],
    split: Annotated[str | None, typer.Option(help="Of runs: train, valid or test; default: test.")] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(help="A column of scores; repeatable. Default: all columns of floats that both have."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="A column of labels beside scores; repeatable. Default: found.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="The column of users beside scores that corank predict did not write.")
    ] = None,
    request: Annotated[
        list[str] | None, typer.Option(help="A column of the request's key beside such scores; repeatable.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="PACKED|RUN|LOG",
            help="Of runs: packed data to judge both on, or a run that has them. Of bundles: the log.",
        ),
    ] = None,
    users: Annotated[
        str | None, typer.Option(help="Of bundles: the table of users, if one reads it.")
    ] = None,
    events: Events = None,
    truth: Truth = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[METRIC=]NUMBER",
            help="How large a difference must be to count, of all metrics or of one; repeatable. Default: 0.",
        ),
    ] = None,
    page: Page = None,
    as_json: Json = False,
) -> None:
    """Compare two runs, bundles or tables of scores on the same candidates: paired intervals and verdicts."""
    from corank.analysis.margins import Margins
    from corank.api import evaluating as api
    from corank.cli.printing.comparison_tables import show_comparison
    from corank.cli.progress import counting

    margins, columns = Margins.read(margin or []), (score or [], label or [], user, request or [])
    with counting("requests", summary=False) as progress:
        found = api.compare(
            a, b, split, page, *columns, progress, on, margins, users, read_names(events or []), truth
        )
    print_text(found.to_json()) if as_json else show_comparison(found.document)

"""The commands that evaluate runs and compare them."""

from pathlib import Path
from typing import Annotated

import typer

from corank.cli.options import Events, Json, local_path, print_text, read_names
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
    from corank.cli.progress import counting

    with counting("requests", summary=False) as progress:
        evaluation = api.evaluate(run, split, reference=reference, by=by, page=page, progress=progress, on=on)
    print_text(evaluation.to_json()) if as_json else console.show(evaluation.view())


@evaluating.command("compare")
def compare_command(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A run, a bundle, or Parquet with scores: a file or a folder.")
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="Another run, on whose packed data both are judged, or bundle; or scores of the same rows; or "
            "trees: boosted trees in place of the last stage of run A.",
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
    from corank.analysis.comparison import Margins
    from corank.api import evaluating as api
    from corank.cli import console
    from corank.cli.progress import counting

    margins, columns = Margins.read(margin or []), (score or [], label or [], user, request or [])
    with counting("requests", summary=False) as progress:
        comparison = api.compare(
            a, b, split, page, *columns, progress, on, margins, users, read_names(events or []), truth
        )
    print_text(comparison.to_json()) if as_json else console.show(comparison.view())


@evaluating.command("compare-served")
def compare_served_command(
    served: Annotated[str, typer.Argument(metavar="LOG", help="The folder that `corank serve --log` wrote.")],
    exposures: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="What was shown, with served_id, the item, and labels: Parquet or CSV; repeatable.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="A column of labels; repeatable. Default: all of 0, 1 and null.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="First moment that counts, ISO 8601, UTC.")] = None,
    until: Annotated[str | None, typer.Option(help="First moment that counts no more.")] = None,
    alpha: Annotated[
        float, typer.Option(help="Probability at which an interval of any look may miss the true difference.")
    ] = 0.05,
    effect: Annotated[
        float, typer.Option(help="About how large a difference is looked for, as a share of the value.")
    ] = 0.02,
    top: Annotated[
        int, typer.Option(help="Items at the top of an answer by which a shadow is compared.")
    ] = 10,
    share: Annotated[
        float | None,
        typer.Option(help="Share of users that the canary was to have, such as 0.05: is it what they were?"),
    ] = None,
    page: Page = None,
    as_json: Json = False,
) -> None:
    """Compare a canary and a shadow with the live version, by intervals that hold at every look."""
    from corank.api import evaluating as api
    from corank.cli import console

    comparison = api.compare_served(
        served, exposures or [], label or [], since, until, alpha, effect, top, page, share
    )
    print_text(comparison.to_json()) if as_json else console.show(comparison.view())


@evaluating.command("compare-cases")
def compare_cases_command(
    cases: Annotated[Path, typer.Argument(parser=local_path, metavar="CASES.jsonl", help="The test cases.")],
    found: Annotated[
        Path,
        typer.Argument(
            parser=local_path, metavar="FOUND.jsonl", help="What a reader made of each, a line each."
        ),
    ],
    tolerance: Annotated[float, typer.Option(min=0, help="Larger differences are an error.")] = 1e-5,
) -> None:
    """Compare what a reader in another language made of test cases with them, step by step."""
    from corank.api.bundles import compare_cases

    steps = compare_cases(cases, found)
    print_text("\n".join(f"{step:14} {most:.1e}" for step, most in steps.items()))
    if max(steps.values()) > tolerance:
        raise typer.Exit(1)

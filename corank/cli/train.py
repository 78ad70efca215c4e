"""The commands that train, and that write trainings to trackers."""

from typing import Annotated

import typer

from corank.cli.options import Json, print_text
from corank.cli.training import ConfigPath, Overrides, RunPath, Without, check_first
from corank.distributed.launch_environment import is_first

train = typer.Typer()

Track = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[,KEY=VALUE…]",
        help="Write the training to mlflow, wandb or a plug-in's; may be repeated.",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="A finished run, or its URL, whose weights and optimiser states are taken over as far as they fit.",
    ),
]


@train.command("train")
def train_command(
    config: ConfigPath,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the latest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    run: Annotated[
        str | None, typer.Option(help="The run's folder or URL; default: runs/NAME beside CONFIG.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine that train together; default: this one alone."),
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="How often the workers start again after one has died.")
    ] = 0,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds that a process waits for the others of its training; default: 600."
        ),
    ] = None,
    source: Source = None,
    overrides: Overrides = None,
    without: Without = None,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Train all stages as one model; pack first if needed. Under torchrun, as one process of several."""
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    check_first(config, overrides, without)
    from corank.api.training import train
    from corank.cli import console
    from corank.cli.progress import TrainingBar

    # of several processes that are started here the first says what follows
    done = train(
        config,
        overrides or [],
        [TrainingBar()] if workers is None else [],
        resume,
        overwrite,
        run,
        console.say,
        workers,
        max_restarts,
        timeout,
        without or [],
        track=track or [],
        continue_from=source,
    )
    if as_json:
        if is_first():
            print_text(done.to_json())
    elif workers is None and is_first():
        console.say(f"kept epoch {done.epoch}; run: {run or done.run.folder}")


@train.command("track")
def track_command(
    run: RunPath,
    trackers: Annotated[
        list[str],
        typer.Argument(metavar="TRACKER[,KEY=VALUE…]…", help="mlflow, wandb, or a plug-in's, with settings."),
    ],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
) -> None:
    """Evaluate RUN, and write figures with intervals, report and model version to trackers."""
    from corank.api.tracking import track
    from corank.cli import console

    console.say(f"report: {track(run, trackers, split)}")

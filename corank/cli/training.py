"""The commands from a config to a bundle, those that write trainings to trackers, and those on one request."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from corank.cli.options import (
    REFUSED,
    AsOf,
    BundlePath,
    ContinueFrom,
    EngineAddress,
    EngineName,
    Events,
    Fixed,
    Json,
    Repack,
    Sign,
    TaskWorkers,
    Trust,
    local_path,
    print_json,
    print_text,
    read_names,
)
from corank.core.errors import CorankError
from corank.distributed.launch_environment import is_first

if TYPE_CHECKING:
    from corank.api.bundles import BundleResult


training = typer.Typer()

Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: a.b=value.", metavar="KEY=VALUE")
]
ExportOverrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of `export`: export.KEY=VALUE.", metavar="KEY=VALUE"),
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        "--without", help="Remove a feature, and what is made of it; may be repeated.", metavar="FEATURE"
    ),
]
ConfigPath = Annotated[Path, typer.Argument(parser=local_path, metavar="CONFIG", help="A config in YAML.")]
RunPath = Annotated[
    str, typer.Argument(metavar="RUN", help="The folder of a training run, or its URL in object storage.")
]
Figures = Annotated[
    str | None, typer.Option(help="A folder or URL to which each figure is written as SVG and PNG, too.")
]
Until = Annotated[
    str | None,
    typer.Option(help="A day or a time until which the log is complete; default: its last row."),
]


def check_first(config: Path, overrides: list[str] | None, without: list[str] | None = None) -> None:
    """Report mistakes in a config before what the command itself needs is loaded. Raises ConfigError, PluginError."""
    from corank.training.config.config_file import read

    read(config, overrides or [], without or [])


Number = TypeVar("Number", int, float)


def _numbers(option: str, text: str, kind: type[Number]) -> list[Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise CorankError(f"{option}: expected numbers with commas between them; received {text!r}") from None


@training.command("pack")
def pack_command(
    config: ConfigPath,
    workers: TaskWorkers = 1,
    engine: EngineName = None,
    address: EngineAddress = None,
    overrides: Overrides = None,
    without: Without = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Then remove packed features that neither CONFIG nor a run beside it uses."
        ),
    ] = False,
    continue_from: ContinueFrom = None,
    fixed: Fixed = False,
    repack: Repack = None,
    as_json: Json = False,
) -> None:
    """Pack the logs, request by request, into memory-mapped arrays; an interrupted packing goes on."""
    check_first(config, overrides, without)
    from corank.api import runs
    from corank.cli import console
    from corank.cli.progress import counting

    with counting("tasks", summary=False) as progress:
        result = runs.pack(
            config,
            overrides or [],
            console.say,
            workers,
            engine,
            address,
            without or [],
            prune,
            progress=progress,
            continue_from=continue_from,
            fixed=fixed,
            repack=repack,
        )
    for line in result.lines:
        console.say(line)
    if as_json:
        print_text(result.to_json())


@training.command("report")
def report_command(
    run: RunPath,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Another run of the same log and split.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="The page's file or URL; default: in RUN, report.html or report-against-OTHER.html."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    figures: Figures = None,
) -> None:
    """Write figures and plots of a run, or of two runs side by side, as one self-contained HTML page."""
    from corank.api import measuring
    from corank.cli import console
    from corank.cli.progress import counting

    with counting("requests", summary=False) as progress:
        page = measuring.report(run, out, split, other, figures, progress)
    for line in page.lines:
        console.say(line)


@training.command("study")
def study_command(
    config: ConfigPath,
    out: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="The study's folder; default: studies/NAME beside CONFIG."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds a variant of the config.")] = 3,
    questions: Annotated[
        str, typer.Option(help="Numbers of the questions, such as 1,6,7.")
    ] = "1,2,3,4,5,6,7,8",
    rates: Annotated[
        str, typer.Option(help="Factors on all learning rates, the best of which is taken.")
    ] = "0.333,1,3",
    overrides: Overrides = None,
    without: Without = None,
    figures: Figures = None,
    as_json: Json = False,
) -> None:
    """Answer nine questions about joint training on this log; an interrupted study continues."""
    check_first(config, overrides, without)
    from corank.api import experiments as studies
    from corank.cli import console
    from corank.cli.progress import counting

    numbers, factors = _numbers("--questions", questions, int), _numbers("--rates", rates, float)
    with counting("trials", summary=False) as progress:
        result = studies.study(
            config,
            out,
            seeds,
            numbers,
            factors,
            overrides or [],
            console.say,
            without or [],
            figures=figures,
            progress=progress,
        )
    print_text(result.to_json()) if as_json else console.show(result.view())


@training.command("explain")
def explain_command(
    run: RunPath,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
    requests: Annotated[int, typer.Option(min=1, help="Requests to measure on, at most.")] = 20_000,
    as_json: Json = False,
) -> None:
    """Show what each feature is worth to each stage, and what it takes online."""
    from corank.api import measuring
    from corank.cli import console
    from corank.cli.progress import counting

    with counting("requests", summary=False) as progress:
        result = measuring.explain(run, split, requests, console.say, progress)
    print_text(result.to_json()) if as_json else console.show(result.view())


@training.command("export")
def export_command(
    run: RunPath,
    bundle: BundlePath,
    until: Until = None,
    sign: Sign = None,
    items_as_of: AsOf = None,
    overrides: ExportOverrides = None,
    as_json: Json = False,
) -> None:
    """Write the bundle that a service runs."""
    from corank.api.bundles import export

    _tell(export(run, bundle, sign or [], items_as_of, until, overrides or []), as_json)


@training.command("refresh")
def refresh_command(
    bundle: BundlePath,
    log: Annotated[str, typer.Argument(metavar="LOG", help="The newer log: a file, a glob or a URL.")],
    items: Annotated[str | None, typer.Option(help="A newer table of items, with new ones.")] = None,
    users: Annotated[
        str | None, typer.Option(help="A table of users, needed if a prior counts by one of its columns.")
    ] = None,
    until: Until = None,
    sign: Sign = None,
    items_as_of: AsOf = None,
    events: Events = None,
    as_json: Json = False,
) -> None:
    """Update a bundle's priors, item records and vectors from newer logs, without training."""
    from corank.api import bundles
    from corank.cli import console

    named = read_names(events or [])
    result = bundles.refresh(bundle, log, items, users, until, console.say, sign or [], items_as_of, named)
    _tell(result, as_json)


def _tell(result: "BundleResult", as_json: bool) -> None:
    """Say what was written, on stderr; and print it."""
    from corank.cli import console

    for line in result.lines:
        console.say(line)
    if as_json:
        print_text(result.to_json())


@training.command("request")
def request_command(
    run: RunPath,
    number: Annotated[int, typer.Option(min=0, help="Which request of the split.")] = 0,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
) -> None:
    """Print a logged request as the REQUEST.json that `corank rank` takes."""
    from corank.api import measuring

    print_json(measuring.request(run, number, split))


@training.command("rank")
def rank_command(
    bundle: BundlePath,
    request: Annotated[Path, typer.Argument(parser=local_path, metavar="REQUEST.json")],
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Rank the candidates of one request in this process, and show where each was cut."""
    from corank.cli import console
    from corank.serving.funnel.funnel import Funnel
    from corank.serving.funnel.request import Request
    from corank.serving.views import answer_view

    answer = Funnel.open(bundle, trust or []).rank(Request.read(request))
    print_json(answer) if as_json else console.show(answer_view(answer))


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

    if against is not None:
        drift = runs.check(config, overrides or [], without or [], console.say, against=against)
        print_text(drift.to_json()) if as_json else console.show(drift.view())
        for line in drift.reasons:
            console.say(line)
        if drift.reasons:
            raise typer.Exit(REFUSED)
        return
    check = runs.check(config, overrides or [], without or [], console.say)
    print_text(check.to_json()) if as_json else console.show(check.view())
    check.data_check.require()


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
        for line in done.lines:
            console.say(line)


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
    from corank.api.measuring import track
    from corank.cli import console

    console.say(f"report: {track(run, trackers, split)}")

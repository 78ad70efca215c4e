"""The command line: parses, calls, prints. Exit 0; 1 for a mistake of the user's, named; 2 for wrong usage."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from corank.cli.importing import importing
from corank.cli.options import BundlePath, Json, print_json
from corank.cli.serving import serving
from corank.core.errors import CorankError
from corank.core.registry import PLUGINS, load_environment_plugins, load_plugins
from corank.core.settings import describe_unknown
from corank.datasets.world import PRESETS

app = typer.Typer(
    help="Train the pre-ranker and the ranker of a funnel as one model, measure them, ship them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def global_options(
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="Import a module that registers parts; repeatable. CORANK_PLUGINS names more, with commas.",
        ),
    ] = None,
) -> None:
    """Load plug-ins, and name them in the environment so that processes started by a command load them, too."""
    load_environment_plugins()
    if plugin:
        load_plugins(plugin, Path.cwd())
        os.environ[PLUGINS] = ",".join([*filter(None, [os.environ.get(PLUGINS)]), *plugin])


app.add_typer(importing, name="import")

Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: a.b=value.", metavar="KEY=VALUE")
]
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A config in YAML.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")]


Number = TypeVar("Number", int, float)


def _numbers(option: str, text: str, kind: type[Number]) -> list[Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise CorankError(f"{option}: expected numbers with commas between them; received {text!r}") from None


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the tables and the config.")],
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "medium",
    seed: int = 0,
    requests: Annotated[int, typer.Option(min=1)] = 10_000,
    candidates: Annotated[int, typer.Option(min=10, help="Candidates a request.")] = 200,
    users: Annotated[int, typer.Option(min=1)] = 2_000,
    items: Annotated[int, typer.Option(min=1)] = 5_000,
    auction: Annotated[
        bool, typer.Option("--auction", help="Items bid for clicks, and stages order by click * bid.")
    ] = False,
    layout: Annotated[
        str, typer.Option("--format", help="plain: tables and a config; recflow: RecFlow's daily files.")
    ] = "plain",
    overwrite: Annotated[bool, typer.Option(help="Replace the world in OUT.")] = False,
) -> None:
    """Write a funnel's logs with known truth, and a config that trains on them."""
    from corank.cli import console as screen
    from corank.datasets.recflow_layout import simulate_recflow
    from corank.datasets.simulate import Simulated
    from corank.datasets.simulate import simulate as simulate_plain

    layouts: dict[str, Callable[..., Simulated]] = {
        "plain": partial(simulate_plain, auction=auction),
        "recflow": simulate_recflow,
    }
    if preset not in PRESETS:
        raise CorankError(f"--preset: {describe_unknown(preset, PRESETS)}")
    if layout not in layouts:
        raise CorankError(f"--format: {describe_unknown(layout, layouts)}")
    if auction and layout != "plain":
        raise CorankError(f"--auction: the format {layout} has no bids; write --format plain")
    found = layouts[layout](out, preset, seed, requests, candidates, users, items, overwrite=overwrite)
    screen.say(f"{found.candidates:,} candidates, {found.exposed:,} exposed, {found.clicks:,} clicks")
    screen.say(
        f"next: corank {f'train {out}/config.yaml' if layout == 'plain' else f'import recflow {out} OUT'}"
    )


@app.command()
def check(config: ConfigPath, overrides: Overrides = None) -> None:
    """Show which feature enters which tower, and every row count, before anything is trained."""
    from corank.api import runs
    from corank.cli import console as screen

    screen.show_check(runs.check(config, overrides or []))


@app.command()
def pack(config: ConfigPath, overrides: Overrides = None) -> None:
    """Pack the logs, request by request, into memory-mapped arrays."""
    from corank.api import runs
    from corank.cli import console as screen

    packed = runs.pack(config, overrides or [], screen.say)
    screen.say(f"packed: {packed.folder}")


@app.command()
def train(
    config: ConfigPath,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew over an earlier run.")] = False,
    run: Annotated[
        Path | None, typer.Option(help="The run's folder; runs/NAME beside CONFIG unless given.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train all stages as one model; packs first where needed."""
    from corank.api import runs
    from corank.cli import console as screen

    if resume and overwrite:
        raise typer.BadParameter("either go on (--resume) or begin anew (--overwrite)")
    with screen.Watch() as watch:
        done, figures = runs.train(config, watch, overrides or [], resume, overwrite, run, screen.say)
    screen.say(f"kept epoch {figures['epoch']}; run: {done.folder}")


@app.command()
def evaluate(
    run: RunPath,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    reference: Annotated[
        Path | None,
        typer.Option(metavar="RUN2", help="A run on the same data without selection bias: bias regret."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge the stages alone and as a cascade, with 95 % intervals."""
    from corank.api import runs
    from corank.cli import console as screen

    document = runs.evaluate(run, split, reference=reference)
    print_json(document) if as_json else screen.show_evaluation(document)


@app.command()
def report(
    run: RunPath,
    out: Annotated[
        Path | None, typer.Option(help="The page's file; report.html in RUN unless given.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
) -> None:
    """Write one self-contained HTML page: figures and plots of a run."""
    from corank.api import runs
    from corank.cli import console as screen

    screen.say(f"report: {runs.report(run, out, split)}")


@app.command()
def study(
    config: ConfigPath,
    out: Annotated[
        Path | None, typer.Option(help="The study's folder; studies/NAME beside CONFIG unless given.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds an arm.")] = 3,
    questions: Annotated[str, typer.Option(help="Which of the eight, such as 1,6,7.")] = "1,2,3,4,5,6,7,8",
    rates: Annotated[str, typer.Option(help="Factors on all learning rates, to choose from.")] = "0.333,1,3",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Answer eight questions about joint training on this log, with seeds and intervals; goes on where it ended."""
    from corank.api import runs
    from corank.cli import console as screen

    found = runs.study(
        config,
        out,
        seeds,
        _numbers("--questions", questions, int),
        _numbers("--rates", rates, float),
        overrides or [],
        screen.say,
    )
    print_json(found) if as_json else screen.show_study(found)


@app.command()
def explain(
    run: RunPath,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
    requests: Annotated[int, typer.Option(min=1, help="Requests to judge by, at most.")] = 20_000,
    as_json: Json = False,
) -> None:
    """Show what each feature is worth to each stage, and what it costs online."""
    from corank.api import runs
    from corank.cli import console as screen

    document = runs.explain(run, split, requests, screen.say)
    print_json(document) if as_json else screen.show_explanation(document)


@app.command()
def export(run: RunPath, bundle: BundlePath) -> None:
    """Write the bundle that a service runs."""
    from corank.api import runs
    from corank.bundle.retrieval import RetrievalFacts
    from corank.cli import console as screen

    written = runs.export(run, bundle)
    screen.say(
        f"bundle: {bundle}  model {written.manifest.model_version}  items {written.manifest.items_seq}"
    )
    facts = RetrievalFacts.read(written.folder)
    if facts is not None:
        screen.say(str(facts))


@app.command()
def refresh(
    bundle: BundlePath,
    log: Annotated[str, typer.Argument(metavar="LOG", help="A newer log: a file, a glob or a URL.")],
    items: Annotated[str | None, typer.Option(help="Newer items, the new ones too.")] = None,
    users: Annotated[
        str | None, typer.Option(help="Users, where a prior counts by a column of theirs.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="The log is complete until then (a day or a time); its last row unless given."),
    ] = None,
) -> None:
    """Renew a bundle's priors, item records and vectors from newer logs, training nothing."""
    from corank.api import runs
    from corank.cli import console as screen

    written = runs.refresh(bundle, log, items, users, until, screen.say)
    screen.say(
        f"bundle: {bundle}  model {written.manifest.model_version}  items {written.manifest.items_seq}"
    )


@app.command()
def request(
    run: RunPath,
    number: Annotated[int, typer.Option(min=0, help="Which request of the split.")] = 0,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
) -> None:
    """Print a logged request as the REQUEST.json that `corank rank` takes."""
    from corank.analysis.logged_request import logged_request
    from corank.training.run import Run

    print_json(logged_request(Run.open(run), split, number))


@app.command()
def rank(
    bundle: BundlePath,
    request: Annotated[Path, typer.Argument(metavar="REQUEST.json")],
    as_json: Json = False,
) -> None:
    """Rank one request's candidates, in process, and show where each was cut."""
    from corank.cli import console as screen
    from corank.serving.funnel.funnel import Funnel, Request

    answer = Funnel.open(bundle).rank(Request.read(request))
    print_json(answer) if as_json else screen.show_answer(answer)


app.add_typer(serving)


def main() -> None:
    """The entry point: a CorankError becomes its message and exit 1."""
    # spinning OpenMP threads that share a core with another process made a step 25 times slower; asleep they cost a
    # tenth on an idle machine, where OMP_WAIT_POLICY=active wins it back (LOG.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
    except CorankError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)

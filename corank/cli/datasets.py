"""`corank import`: one command for each registered importer; the importer's fields are the command's options.

`corank simulate`: a world of known truth, in corank's own tables or in the layout of a public log.
"""

import inspect
from collections.abc import Callable
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from corank.cli.options import local_path, name_write_errors
from corank.core.errors import CorankError
from corank.core.lazy import require
from corank.datasets.feed.presets import PRESETS

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from corank.datasets.feed.simulate import Simulated
    from corank.datasets.importer import Importer
    from corank.datasets.news.simulate import SimulatedNews


class ImporterGroup(TyperGroup):
    """Looks its commands up in the registry when it runs, after plug-ins have been loaded."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all registered importers."""
        from corank.datasets.importer import IMPORTERS

        return list(IMPORTERS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of an importer, None if there is no importer of that name."""
        from corank.datasets.importer import IMPORTERS

        if cmd_name not in IMPORTERS:
            return None
        app = typer.Typer(add_completion=False)
        app.command(cmd_name)(_command(cmd_name, IMPORTERS[cmd_name]))
        return typer.main.get_command(app)


importing = typer.Typer(
    cls=ImporterGroup, help="Turn public logs into tables and a config.", no_args_is_help=True
)


def _command(name: str, importer: "type[Importer]") -> Callable[..., None]:
    """A function with the arguments SOURCE and OUT and an option for each field, as Typer reads it."""

    def run(source: Path, out: Path, **options: Any) -> None:
        from corank.cli.console import say
        from corank.core.settings import validate

        values = {key: value for key, value in options.items() if value is not None}
        settings = validate(importer, values, f"import {name}")
        with name_write_errors(out):
            settings.write(source, out, say)
        say(f"next: corank train {out / 'config.yaml'}")

    of_source = typer.Argument(parser=local_path, metavar="SOURCE", help=importer.source_help)
    of_out = typer.Argument(parser=local_path, metavar="OUT", help="Folder for the tables and the config.")
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("source", kind, annotation=Annotated[Path, of_source]),
        inspect.Parameter("out", kind, annotation=Annotated[Path, of_out]),
        *(
            inspect.Parameter(key, kind, default=_default(field), annotation=_option(key, field))
            for key, field in importer.model_fields.items()
        ),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = inspect.getdoc(importer)
    return run


def _default(field: "FieldInfo") -> Any:
    return inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)


def _option(key: str, field: "FieldInfo") -> Any:
    """The annotation of a field's option: its type as the command line reads it, its name and its help."""
    from annotated_types import Ge

    from corank.datasets.importer import option_type

    kind, optional = option_type(field.annotation)
    name = f"--{(field.alias or key).replace('_', '-')}"
    least: Any = next((part.ge for part in field.metadata if isinstance(part, Ge)), None)
    if kind is date:
        option = typer.Option(name, help=field.description, formats=["%Y-%m-%d"])
        kind = datetime
    else:
        option = typer.Option(name, help=field.description, min=least)
    return Annotated[kind | None, option] if optional else Annotated[kind, option]


NEWS = "news"
"""The preset of a news site, of which the other options have defaults of their own."""

Days = Annotated[int | None, typer.Option(min=3, help="Days of a feed. Default: 10.", show_default=False)]
Walk = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Of --drift: how far tastes move a day, 0 to 1. Default: 0.2.", show_default=False
    ),
]
Lifetime = Annotated[
    int | None,
    typer.Option(min=2, help="Of --drift: days an item is there. Default: 5.", show_default=False),
]
Random = Annotated[
    float | None,
    typer.Option(
        help="Share of a feed's requests whose candidates are exposed at random, with their propensities in the log.",
        show_default=False,
    ),
]

simulating = typer.Typer()


@simulating.command("simulate")
def simulate_command(
    out: Annotated[
        Path, typer.Argument(parser=local_path, metavar="OUT", help="Folder for the tables and the config.")
    ],
    preset: Annotated[
        str, typer.Option(help=f"One of {', '.join(PRESETS)}: a feed; or {NEWS}: a news site.")
    ] = "medium",
    seed: int = 0,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Default: 10000; news 20000.", show_default=False)
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            min=10,
            help="Candidates per request, of news at most. Default: 200; news 100.",
            show_default=False,
        ),
    ] = None,
    users: Annotated[
        int | None, typer.Option(min=1, help="Default: 2000; news 40000.", show_default=False)
    ] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Default: 5000.", show_default=False)] = None,
    auction: Annotated[
        bool, typer.Option("--auction", help="Items bid for clicks, and stages order by click * bid.")
    ] = False,
    random: Random = None,
    days: Days = None,
    drift: Annotated[
        bool, typer.Option("--drift", help="Tastes walk, items come and go, and a file a day is written.")
    ] = False,
    walk: Walk = None,
    lifetime: Lifetime = None,
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            help="plain: tables and a config; recflow: RecFlow's daily files; of news mind or ebnerd: their files.",
        ),
    ] = "plain",
    overwrite: Annotated[bool, typer.Option(help="Replace the world in OUT.")] = False,
) -> None:
    """Write the logs of a simulated funnel whose truth is known, and a config that trains on them."""
    from corank.cli.console import say

    sizes = {"requests": requests, "candidates": candidates, "users": users, "items": items}
    options: dict[str, Any] = {"seed": seed} | {k: n for k, n in sizes.items() if n is not None}
    simulate = _choose(preset, layout, auction)
    if random is not None:
        _require_feed(preset, layout, "--random", "random bucket")
        options["random"] = random
    options |= _read_days(preset, layout, days, drift, {"walk": walk, "lifetime": lifetime})
    require("train", "scipy", "corank simulate")  # before anything is written
    with name_write_errors(out):
        world = simulate(out, overwrite=overwrite, **options)
    say(f"{world.candidates:,} candidates, {world.exposed:,} exposed, {world.clicks:,} clicks")
    say(f"next: corank {f'train {out}/config.yaml' if layout == 'plain' else f'import {layout} {out} OUT'}")


def _read_days(
    preset: str, layout: str, days: int | None, drift: bool, steps: dict[str, float | None]
) -> dict[str, Any]:
    """Read how long a world lasts and how it changes. Raises CorankError for an option that has no effect."""
    drift_options = {name: value for name, value in steps.items() if value is not None}
    named = [f"--{name}" for name in drift_options]
    if named and not drift:
        raise CorankError(f"{named[0]}: it says how a world drifts; add --drift or leave it out")
    named = ["--days"] * (days is not None) + ["--drift"] * drift
    if named and (layout != "plain" or preset == NEWS):
        what = f"the preset {NEWS}" if preset == NEWS else f"the format {layout}"
        raise CorankError(f"{named[0]}: {what} has days of its own; leave it out")
    options: dict[str, Any] = {} if days is None else {"days": days}
    return options | ({"drift": drift_options} if drift else {})


def _choose(preset: str, layout: str, auction: bool) -> "Callable[..., Simulated | SimulatedNews]":
    """Choose the simulation of a preset in a layout. Raises CorankError if there is none."""
    from corank.core.settings import describe_unknown
    from corank.datasets.feed.simulate import simulate_world
    from corank.datasets.news.layouts import simulate_ebnerd, simulate_mind
    from corank.datasets.news.simulate import simulate_news
    from corank.datasets.recflow_layout import simulate_recflow

    feeds: dict[str, Callable[..., Simulated | SimulatedNews]] = {
        "plain": partial(simulate_world, preset=preset, auction=auction),
        "recflow": partial(simulate_recflow, preset=preset),
    }
    news: dict[str, Callable[..., Simulated | SimulatedNews]] = {
        "plain": simulate_news,
        "mind": simulate_mind,
        "ebnerd": simulate_ebnerd,
    }
    if preset not in (*PRESETS, NEWS):
        raise CorankError(f"--preset: {describe_unknown(preset, (*PRESETS, NEWS))}")
    if layout not in feeds | news:
        raise CorankError(f"--format: {describe_unknown(layout, feeds | news)}")
    layouts = news if preset == NEWS else feeds
    if layout not in layouts:
        raise CorankError(
            f"--format: the preset {preset} is written as {', '.join(layouts)}; received {layout}"
        )
    if auction:
        _require_feed(preset, layout, "--auction", "bids")
    return layouts[layout]


def _require_feed(preset: str, layout: str, option: str, lacking: str) -> None:
    """Raise CorankError unless a world is a feed in corank's own tables, which alone has the option."""
    if layout != "plain" or preset == NEWS:
        what = f"the preset {NEWS}" if preset == NEWS else f"the format {layout}"
        raise CorankError(f"{option}: {what} has no {lacking}; leave it out")

"""`corank import`: a command for each registered importer, whose fields are its options; and `corank simulate`."""

import inspect
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from corank.cli.options import local_path, name_write_errors
from corank.core.errors import CorankError
from corank.core.lazy import require

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from corank.datasets.importer import Importer
    from corank.datasets.simulated import SimulatedWorld


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
        help="Share of requests whose candidates are exposed at random, with their propensities in the log.",
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
        str, typer.Option(help="A feed: weak, medium, strong or hidden; or a preset of another world.")
    ] = "medium",
    seed: int = 0,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Default: 10000, of a feed.", show_default=False)
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Default: 200 a request, of a feed.", show_default=False)
    ] = None,
    users: Annotated[
        int | None, typer.Option(min=1, help="Default: 2000, of a feed.", show_default=False)
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="Default: 5000, of a feed.", show_default=False)
    ] = None,
    auction: Annotated[
        bool, typer.Option("--auction", help="Items bid for clicks, and stages order by click * bid.")
    ] = False,
    random: Random = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="Default: 10, of a feed.", show_default=False)
    ] = None,
    drift: Annotated[
        bool, typer.Option("--drift", help="Tastes walk, items come and go, and a file a day is written.")
    ] = False,
    walk: Walk = None,
    lifetime: Lifetime = None,
    layout: Annotated[
        str,
        typer.Option(
            "--format", help="plain: tables and a config; else the layout of a log that has an importer."
        ),
    ] = "plain",
    overwrite: Annotated[bool, typer.Option(help="Replace the world in OUT.")] = False,
) -> None:
    """Write the logs of a simulated funnel whose truth is known, and a config that trains on them."""
    from corank.cli.console import say
    from corank.core.settings import validate

    options: dict[str, Any] = {"seed": seed, "requests": requests, "candidates": candidates, "users": users}
    options |= {"items": items, "auction": auction or None, "random": random, "days": days}
    options["drift"] = _read_drift(drift, {"walk": walk, "lifetime": lifetime})
    world = _choose(preset, layout)
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := [name for name in given if name not in world.model_fields]:
        known = ", ".join(f"--{name}" for name in options if name in world.model_fields)
        what = f"the preset {preset} in the format {layout}"
        raise CorankError(f"--{unknown[0]}: no option of {what}, which has {known}; leave it out")
    given |= {"preset": preset} if "preset" in world.model_fields else {}
    settings = validate(world, given, "simulate")
    require("train", "scipy", "corank simulate")  # before anything is written
    with name_write_errors(out):
        counts = settings.simulate(out, overwrite)
    say(f"{counts.candidates:,} candidates, {counts.exposed:,} exposed, {counts.clicks:,} clicks")
    say(f"next: corank {f'train {out}/config.yaml' if layout == 'plain' else f'import {layout} {out} OUT'}")


def _read_drift(drift: bool, steps: dict[str, float | None]) -> dict[str, float] | None:
    """Read how a world drifts. Raises CorankError for an option that has no effect."""
    given = {name: value for name, value in steps.items() if value is not None}
    if given and not drift:
        raise CorankError(f"--{next(iter(given))}: it says how a world drifts; add --drift or leave it out")
    return given if drift else None


def _choose(preset: str, layout: str) -> "type[SimulatedWorld]":
    """Choose the world of a preset and a format. Raises CorankError if there is none."""
    from corank.core.settings import describe_unknown
    from corank.datasets.simulated import WORLDS

    worlds = WORLDS.parts().values()
    presets = dict.fromkeys(name for world in worlds for name in world.presets)
    if preset not in presets:
        raise CorankError(f"--preset: {describe_unknown(preset, presets, 'preset')}")
    formats = {world.format: world for world in worlds if preset in world.presets}
    if layout not in formats:
        known = ", ".join(formats)
        raise CorankError(f"--format: the preset {preset} is written as {known}; received {layout}")
    return formats[layout]

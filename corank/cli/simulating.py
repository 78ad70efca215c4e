"""`corank simulate`: a world of known truth, in corank's own tables or in the layout of a public log."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corank.cli.machine_errors import name_write_errors
from corank.cli.options import local_path
from corank.core.errors import CorankError
from corank.core.extras import require

if TYPE_CHECKING:
    from corank.datasets.simulated import SimulatedWorld

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

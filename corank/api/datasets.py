"""Simulated logs whose truth is known."""

from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from corank.core.errors import CorankError
from corank.core.lazy import require
from corank.core.machine_errors import name_write_errors
from corank.core.objects import PathOrUrl, require_local
from corank.core.options import PYTHON_ONLY, Option, printed
from corank.core.reports import Report
from corank.core.settings import describe_unknown, validate

if TYPE_CHECKING:
    from corank.datasets.simulated import Simulated, SimulatedWorld


@printed("{result.candidates:,} candidates, {result.exposed:,} exposed, {result.clicks:,} clicks")
def simulate(
    out: PathOrUrl,
    preset: str = "medium",
    seed: int = 0,
    requests: Annotated[int | None, Ge(1)] = None,
    candidates: Annotated[int | None, Ge(1)] = None,
    users: Annotated[int | None, Ge(1)] = None,
    items: Annotated[int | None, Ge(1)] = None,
    auction: bool = False,
    random: float | None = None,
    days: Annotated[int | None, Ge(1)] = None,
    drift: bool = False,
    walk: Annotated[float | None, PYTHON_ONLY, Ge(0), Le(1)] = None,
    lifetime: Annotated[int | None, PYTHON_ONLY, Ge(2)] = None,
    satiation: Annotated[float | None, Ge(0), Le(1)] = None,
    organic: float | None = None,
    awareness: float | None = None,
    layout: Annotated[str, Option("--format")] = "plain",
    overwrite: bool = False,
    report: Report = lambda line: None,
) -> "Simulated":
    """Write the logs of a simulated funnel of known truth, and a config that trains on them.

    Args:
        out: folder for the tables and the config.
        preset: a feed: weak, medium, strong or hidden; or a preset of another world.
        seed: of all draws.
        requests: how many (default: 10000 for a feed).
        candidates: per request (default: 200 for a feed).
        users: how many (default: 2000 for a feed).
        items: how many (default: 5000 for a feed).
        auction: items bid for clicks, and stages order by click * bid.
        random: share of requests whose candidates are exposed at random, with their propensities in the log.
        days: how many (default: 10 for a feed).
        drift: tastes walk, items come and go, and a file a day is written.
        walk: of `drift`: how far tastes move a day, 0 to 1 (default: 0.2).
        lifetime: of `drift`: days an item is there (default: 5).
        satiation: by how much each candidate above of the same category lowers a click, 0 to 1; the config then ends
            with a page.
        organic: users also act outside of the funnel, on a candidate with this share of its click probability; the
            events are written to `organic/`.
        awareness: of `organic`: how unequally items are known there, as the spread of a lognormal (default: 0).
        layout: `plain` for tables and a config; else the layout of a log that has an importer.
        overwrite: replace the world in `out`.
        report: takes a line about what to do next.

    Returns how many candidates, exposures and clicks were written. Raises CorankError for an option that the preset
    lacks, DataError if the folder cannot be written or is not empty, BusyError if another process writes there.

    Example:
        >>> corank.simulate("simulated", requests=300, candidates=20).candidates
        6000
    """
    options: dict[str, Any] = {"seed": seed, "requests": requests, "candidates": candidates, "users": users}
    options |= {"items": items, "auction": auction or None, "random": random, "days": days}
    options |= {"satiation": satiation, "organic": organic, "awareness": awareness}
    steps = {name: value for name, value in (("walk", walk), ("lifetime", lifetime)) if value is not None}
    if steps and not drift:
        raise CorankError(f"{next(iter(steps))} applies to a drifting world; add `drift` or leave it out")
    if awareness is not None and organic is None:
        raise CorankError("--awareness applies to the other path; add --organic or leave it out")
    options["drift"] = steps if drift else None
    world = _choose(preset, layout)
    values = {name: value for name, value in options.items() if value is not None}
    if unknown := [name for name in values if name not in world.model_fields]:
        known = ", ".join(f"--{name}" for name in options if name in world.model_fields)
        what = f"the preset {preset} in the format {layout}"
        raise CorankError(f"--{unknown[0]}: no option of {what}, which has {known}; leave it out")
    values |= {"preset": preset} if "preset" in world.model_fields else {}
    settings, folder = validate(world, values, "simulate"), require_local(out)
    require("scipy", "corank simulate")  # before anything is written
    with name_write_errors(folder):
        counts = settings.simulate(folder, overwrite)
    command = f"train {out}/config.yaml" if layout == "plain" else f"import {layout} {out} OUT"
    if organic is not None:
        orders = f"--window 3d --label 'later={out}/organic/*.parquet:order'"
        report(f"next: corank join '{out}/log/*.parquet' --out {out}/joined {orders}")
    report(f"next: corank {command}")
    return counts


def _choose(preset: str, layout: str) -> "type[SimulatedWorld]":
    """Choose the world of a preset and a format. Raises CorankError if there is none."""
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

"""The commands that put a bundle into service."""

from pathlib import Path
from typing import Annotated

import typer

from corank.cli.options import BundlePath, Json, print_json

serving = typer.Typer()
store = typer.Typer(help="List a store's versions, roll back, prune.", no_args_is_help=True)
serving.add_typer(store, name="store")

CACHE = Path.home() / ".cache" / "corank"
Cache = Annotated[
    Path | None, typer.Option(help="Folder for the bundles of stores; default: ~/.cache/corank.")
]
StoreUrl = Annotated[str, typer.Argument(metavar="STORE", help="lmdb:PATH or redis://HOST:PORT/DB.")]


@serving.command("publish")
def publish_command(
    bundle: BundlePath,
    store: StoreUrl,
    users: Annotated[
        str | None, typer.Option(help="A table of users, for requests that give a user's id alone.")
    ] = None,
) -> None:
    """Put a bundle into a store and make it live, whole or not at all."""
    from corank.api import stores
    from corank.cli import console
    from corank.cli.progress import counting

    with counting("records") as progress:
        version = stores.publish(bundle, store, users, console.say, progress)
    console.say(f"live: {version}")


@serving.command("vectors")
def vectors_command(
    bundle: BundlePath,
    items: Annotated[str, typer.Argument(metavar="ITEMS", help="A table of items: a file or a glob.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet")],
) -> None:
    """Write the vectors of a catalogue of any size, for other retrieval systems."""
    from corank.api import stores
    from corank.cli import console
    from corank.cli.progress import counting

    with counting("items") as progress:
        written = stores.vectors(bundle, items, out, progress)
    console.say(f"{out}: {written:,} items")


@store.command("ls")
def ls_command(store: StoreUrl, as_json: Json = False) -> None:
    """List a store's versions."""
    from corank.api import stores
    from corank.cli import console

    found = stores.store_versions(store)
    print_json(found) if as_json else console.show_versions(found)


@store.command("rollback")
def rollback_command(
    store: StoreUrl,
    version: Annotated[
        str | None, typer.Argument(help="As `corank store ls` names it; default: the version before.")
    ] = None,
) -> None:
    """Make an older version live again, with all items that were changed since."""
    from corank.api import stores
    from corank.cli import console

    console.say(f"live: {stores.roll_back(store, version, console.say)}")


@store.command("prune")
def prune_command(
    store: StoreUrl,
    keep: Annotated[int, typer.Option(min=0, help="Versions to keep beside the live one.")] = 1,
) -> None:
    """Remove older versions, and what an interrupted publication left."""
    from corank.api import stores
    from corank.cli import console

    gone = stores.prune(store, keep, console.say)
    console.say(f"{len(gone)} removed")


@serving.command("serve")
def serve_command(
    source: Annotated[str, typer.Argument(metavar="BUNDLE|STORE")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; default: as many as there are cores.")
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.01, help="Seconds between two checks of the source for a new version.")
    ] = 1.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait for a worker.")] = 64,
    body_mib: Annotated[float, typer.Option(min=0.001, help="Largest body, MiB.")] = 4.0,
    cache: Cache = None,
    log: Annotated[Path | None, typer.Option(help="Folder to log served requests to.")] = None,
    log_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of requests to log.")] = 1.0,
) -> None:
    """Rank over HTTP. If CORANK_TOKEN is set, clients that write must send it."""
    from corank.cli import console
    from corank.serving.http.server import ServeSettings, count_cores, run_service

    settings = ServeSettings(
        source=source,
        cache=cache or CACHE,
        log=log,
        log_share=log_share,
        host=host,
        port=port,
        workers=workers or count_cores(),
        every=every,
        queue=queue,
        body_mib=body_mib,
    )
    run_service(settings, console.say)


@serving.command("replay")
def replay_command(
    served: Annotated[Path, typer.Argument(metavar="SERVED", help="What `corank serve --log` wrote.")],
    source: Annotated[str, typer.Argument(metavar="BUNDLE|STORE")],
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Compute the scores of served requests again, and show how far they differ from the served ones."""
    from corank.api import stores
    from corank.cli import console

    found = stores.replay(served, source, cache or CACHE, console.say)
    if as_json:
        print_json(found.to_json())
    else:
        console.say(
            f"{found.requests:,} requests, {found.candidates:,} candidates: {found.differ:,} differ, "
            f"by {found.largest:.2g} at most; {found.skipped:,} requests of versions that were removed",
            console.out,
        )

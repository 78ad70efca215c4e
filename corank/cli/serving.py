"""The part of the command line that puts a bundle into service."""

from pathlib import Path
from typing import Annotated

import typer

from corank.cli.options import BundlePath, Json, print_json

serving = typer.Typer()
store = typer.Typer(help="What a store holds: list it, go back, tidy up.", no_args_is_help=True)
serving.add_typer(store, name="store")

CACHE = Path.home() / ".cache" / "corank"
Cache = Annotated[
    Path | None, typer.Option(help="Where a store's bundles are kept; ~/.cache/corank unless given.")
]
StoreUrl = Annotated[str, typer.Argument(metavar="STORE", help="lmdb:PATH or redis://HOST:PORT/DB.")]


@serving.command()
def publish(
    bundle: BundlePath,
    store: StoreUrl,
    users: Annotated[
        str | None, typer.Option(help="A table of users, for requests that give a user's id alone.")
    ] = None,
) -> None:
    """Put a bundle into a store and make it live, whole or not at all."""
    from corank.api import stores
    from corank.cli import console as screen
    from corank.cli import store_console as screen_store

    with screen_store.counted("records") as progress:
        version = stores.publish(bundle, store, users, screen.say, progress)
    screen.say(f"live: {version}")


@serving.command()
def vectors(
    bundle: BundlePath,
    items: Annotated[str, typer.Argument(metavar="ITEMS", help="A table of items: a file or a glob.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet")],
) -> None:
    """Write the vectors of a catalogue of any size, for other systems that retrieve."""
    from corank.api import stores
    from corank.cli import console as screen
    from corank.cli import store_console as screen_store

    with screen_store.counted("items") as progress:
        written = stores.vectors(bundle, items, out, progress)
    screen.say(f"{out}: {written:,} items")


@store.command("ls")
def ls(store: StoreUrl, as_json: Json = False) -> None:
    """List a store's versions."""
    from corank.api import stores
    from corank.cli import store_console as screen_store

    found = stores.store_versions(store)
    print_json(found) if as_json else screen_store.show_versions(found)


@store.command()
def rollback(
    store: StoreUrl,
    version: Annotated[
        str | None, typer.Argument(help="As `corank store ls` names it; the one before unless given.")
    ] = None,
) -> None:
    """Make an older version live again, with all items that came since."""
    from corank.api import stores
    from corank.cli import console as screen

    screen.say(f"live: {stores.roll_back(store, version, screen.say)}")


@store.command()
def prune(
    store: StoreUrl,
    keep: Annotated[int, typer.Option(min=0, help="Versions to keep beside the live one.")] = 1,
) -> None:
    """Remove older versions, and what was left half written."""
    from corank.api import stores
    from corank.cli import console as screen

    gone = stores.prune(store, keep, screen.say)
    screen.say(f"{len(gone)} removed")


@serving.command()
def serve(
    source: Annotated[str, typer.Argument(metavar="BUNDLE|STORE")],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for all the world.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; as many as there are cores unless given.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks at the source.")] = 1.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait for a worker.")] = 64,
    body_mib: Annotated[float, typer.Option(min=0.001, help="Largest body, MiB.")] = 4.0,
    cache: Cache = None,
    log: Annotated[Path | None, typer.Option(help="Where to log served requests.")] = None,
    log_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of requests, to log.")] = 1.0,
) -> None:
    """Rank over HTTP. CORANK_TOKEN, if set, is what writers must send."""
    from corank.cli import console as screen
    from corank.serving.http.server import ServeSettings, cores
    from corank.serving.http.server import serve as served

    settings = ServeSettings(
        source=source,
        cache=cache or CACHE,
        log=log,
        log_share=log_share,
        host=host,
        port=port,
        workers=workers or cores(),
        every=every,
        queue=queue,
        body_mib=body_mib,
    )
    served(settings, screen.say)


@serving.command()
def replay(
    served: Annotated[Path, typer.Argument(metavar="SERVED", help="What `corank serve --log` wrote.")],
    source: Annotated[str, typer.Argument(metavar="BUNDLE|STORE")],
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Compute the scores of served requests anew, and tell how far they are from the served ones."""
    from corank.api import stores
    from corank.cli import console as screen
    from corank.serving.http.replay import plain

    found = stores.replay(served, source, cache or CACHE, screen.say)
    if as_json:
        print_json(plain(found))
    else:
        screen.say(
            f"{found.requests:,} requests, {found.candidates:,} candidates: {found.differ:,} differ, "
            f"by {found.largest:.2g} at most; {found.skipped:,} requests of versions that are gone",
            screen.out,
        )

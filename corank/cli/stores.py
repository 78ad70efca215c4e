"""The commands of stores: publish a bundle; list, promote, roll back and prune versions; replay what was served."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from corank.cli.options import (
    BundlePath,
    EngineAddress,
    EngineName,
    Events,
    Json,
    Sign,
    TaskWorkers,
    Trust,
    local_path,
    print_json,
    print_text,
    read_names,
)
from corank.serving.store.base import CACHE

serving = typer.Typer()
store = typer.Typer(
    help="List a store's versions and its log; promote, withdraw, roll back, prune.", no_args_is_help=True
)
serving.add_typer(store, name="store")

Cache = Annotated[
    Path | None,
    typer.Option(parser=local_path, help="Folder for the bundles of stores; default: ~/.cache/corank."),
]
StoreUrl = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="lmdb:PATH, redis://HOST:PORT/DB or redis+cluster://HOST:PORT,HOST:PORT."
    ),
]


@serving.command("publish")
def publish_command(
    bundle: BundlePath,
    store: StoreUrl,
    users: Annotated[
        str | None, typer.Option(help="A table of users, for requests that give a user's id alone.")
    ] = None,
    sign: Sign = None,
    stage: Annotated[
        bool,
        typer.Option("--stage", help="Leave what is live as it is; `corank store promote` makes it live."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a bundle into a store and make it live, whole or not at all."""
    from corank.api import stores
    from corank.cli import console
    from corank.cli.progress import counting

    with counting("records") as progress:
        published = stores.publish(bundle, store, users, console.say, progress, sign or [], stage)
    for line in published.lines:
        console.say(line)
    if as_json:
        print_text(published.to_json())


@serving.command("vectors")
def vectors_command(
    bundle: BundlePath,
    items: Annotated[str, typer.Argument(metavar="ITEMS", help="A table of items: a file, a glob or a URL.")],
    out: Annotated[str, typer.Argument(metavar="OUT.parquet", help="The file to write, or its URL.")],
    workers: TaskWorkers = 1,
    engine: EngineName = None,
    address: EngineAddress = None,
    index: Annotated[
        Literal["ivf", "ivf_pq"] | None,
        typer.Option(help="Build a FAISS index of each stage's vectors, beside OUT, and print its recall."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE.PART",
            help="What to write of each item, such as rank.item; repeatable. Default: the vectors of all stages.",
        ),
    ] = None,
) -> None:
    """Write the vectors of a catalogue of any size, or other item parts, for other systems."""
    from corank.api import stores
    from corank.cli import console
    from corank.cli.progress import counting

    with counting("items") as progress:
        written = stores.vectors(
            bundle, items, out, progress, workers, engine, address, console.say, index, part or []
        )
    console.say(f"{out}: {written:,} items")


@serving.command("predict")
def predict_command(
    source: Annotated[
        str, typer.Argument(metavar="RUN|BUNDLE", help="The folder of a run or of a bundle, or its URL.")
    ],
    log: Annotated[list[str], typer.Argument(metavar="LOG", help="Logged candidates: files, globs or URLs.")],
    out: Annotated[
        Path,
        typer.Argument(parser=local_path, metavar="OUT", help="The folder to write; not there, or empty."),
    ],
    users: Annotated[
        str | None, typer.Option(help="The table of users, if the bundle reads one: a file, a glob or a URL.")
    ] = None,
    events: Events = None,
    workers: TaskWorkers = 1,
    engine: EngineName = None,
    address: EngineAddress = None,
    as_served: Annotated[
        bool,
        typer.Option(
            "--as-served",
            help="Score rows older than the bundle's snapshots by the priors of now, which count their own labels.",
        ),
    ] = False,
) -> None:
    """Write every stage's logits, probabilities and values of each candidate of a log, with keys and labels."""
    from corank.api import stores
    from corank.cli import console
    from corank.cli.progress import counting

    with counting("partitions") as progress:
        tables = read_names(events or [])
        prediction = stores.predict(
            source, log, out, users, workers, engine, address, console.say, progress, tables, as_served
        )
    console.say(
        f"{out}: {prediction.requests:,} requests, {prediction.candidates:,} candidates, of which the bundle "
        f"does not know {prediction.unknown:,}"
    )


@serving.command("conformance")
def conformance_command(
    bundle: BundlePath,
    out: Annotated[Path, typer.Argument(parser=local_path, metavar="OUT.jsonl", help="The file to write.")],
    requests: Annotated[
        Path | None,
        typer.Option(
            parser=local_path,
            help="Requests, one a line in JSON, each with a time; random ones if not given.",
        ),
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="How many random requests.")] = 100,
    seed: Annotated[int, typer.Option(help="Of random requests.")] = 0,
) -> None:
    """Write test cases for readers of the bundle in other languages: requests, encoded rows, scores, answers."""
    from corank.api.bundles import conformance
    from corank.cli import console

    console.say(f"{out}: {conformance(bundle, out, requests, number, seed):,} cases")


@serving.command("users")
def users_command(
    bundle: BundlePath,
    out: Annotated[Path, typer.Option(parser=local_path, help="The Parquet file to write.")],
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="The log, if the bundle makes histories of it: a file, a glob or a URL; repeatable."
        ),
    ] = None,
    users: Annotated[
        str | None,
        typer.Option(help="A table of users, whose columns are taken over: a file, a glob or a URL."),
    ] = None,
    events: Events = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="A day or a time; histories have what a request then sees. Default: after the last row."
        ),
    ] = None,
) -> None:
    """Write a table of users for publish --users, with the histories that the bundle makes of a log or of events."""
    from corank.api import stores as tables
    from corank.cli import console
    from corank.cli.progress import counting

    with counting("users") as progress:
        written = tables.users(bundle, out, log, users, read_names(events or []), until, progress)
    console.say(f"{out}: {written:,} users")


@store.command("ls")
def ls_command(store: StoreUrl, as_json: Json = False) -> None:
    """List a store's versions."""
    from corank.api import stores as versions
    from corank.cli import console
    from corank.serving.views import versions_view

    entries = versions.store_versions(store)
    print_json(entries) if as_json else console.show(versions_view(entries))


@store.command("log")
def log_command(
    store: StoreUrl,
    last: Annotated[int, typer.Option(min=1, help="Lines, at most.")] = 20,
    as_json: Json = False,
) -> None:
    """Print who changed what in a store, and when: upserts, publications, roll-backs, prunes."""
    from corank.api import stores as versions
    from corank.cli import console
    from corank.serving.views import log_view

    changes = versions.store_log(store, last)
    print_json(changes) if as_json else console.show(log_view(changes))


@store.command("promote")
def promote_command(
    store: StoreUrl,
    version: Annotated[str, typer.Argument(help="As `corank store ls` names it.")],
    sign: Sign = None,
) -> None:
    """Make a staged version live, with all items that were changed since; a canary of it ends by itself."""
    from corank.api import stores as versions
    from corank.cli import console

    versions.promote(store, version, console.say, sign or [])
    console.say(f"live: {version}")


@store.command("withdraw")
def withdraw_command(
    store: StoreUrl, version: Annotated[str, typer.Argument(help="As `corank store ls` names it.")]
) -> None:
    """End the canary of a version in all services, until it is staged or promoted again."""
    from corank.api import stores as versions
    from corank.cli import console

    versions.withdraw(store, version)
    console.say(f"withdrawn: {version}")


@store.command("rollback")
def rollback_command(
    store: StoreUrl,
    version: Annotated[
        str | None, typer.Argument(help="As `corank store ls` names it; default: the version before.")
    ] = None,
    sign: Sign = None,
) -> None:
    """Make an older version live again, with all items that were changed since."""
    from corank.api import stores as versions
    from corank.cli import console

    console.say(f"live: {versions.roll_back(store, version, console.say, sign or [])}")


@store.command("prune")
def prune_command(
    store: StoreUrl,
    keep: Annotated[int, typer.Option(min=0, help="Versions to keep beside the live one.")] = 1,
) -> None:
    """Remove older versions, and what an interrupted publication left."""
    from corank.api import stores as versions
    from corank.cli import console

    gone = versions.prune(store, keep, console.say)
    console.say(f"{len(gone)} removed")


@serving.command("replay")
def replay_command(
    served: Annotated[
        Path,
        typer.Argument(parser=local_path, metavar="SERVED", help="What `corank serve --log` wrote."),
    ],
    source: Annotated[str, typer.Argument(metavar="BUNDLE|STORE")],
    cache: Cache = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Compute the scores of served requests again, and show how far they differ from the served ones."""
    from corank.api.stores import replay
    from corank.cli import console

    comparison = replay(served, source, cache or CACHE, console.say, trust or [])
    print_text(comparison.to_json()) if as_json else console.show(comparison.view())

"""The commands of stores and tables of users, as functions on paths and store addresses, without torch.

Each raises a CorankError for a mistake of the user. Store addresses are `lmdb:PATH`, `redis://HOST:PORT/DB`,
`redis+cluster://HOST:PORT` or of a plug-in's store.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Self

import msgspec
import polars as pl
from annotated_types import Ge

from corank.api.frames import TableSource, temporary_frames
from corank.api.progress import show_progress
from corank.api.results import AgreementResult, DocumentResult, frame
from corank.bundle.bundle import Bundle
from corank.bundle.manifest import load_manifest
from corank.bundle.signatures import SigningKeys, TrustedKeys
from corank.core.errors import DataError
from corank.core.objects import PathOrUrl, parse_location, require_local
from corank.core.options import EVENTS, Option, printed
from corank.core.reports import Progress, Report
from corank.core.time import format_time
from corank.core.view import Section, Table, View
from corank_serve.log.replay import bundle_funnels, replay_log, store_funnels
from corank_serve.log.request_log import describe_open_files
from corank_serve.store import retention
from corank_serve.store.base import CACHE, is_store, open_store
from corank_serve.store.journal import read_log
from corank_serve.store.publish import publish_bundle
from corank_serve.store.put_users import put_users
from corank_serve.store.upsert import MergedItems
from corank_serve.user_table import UserSources, write_users

_MERGED = ("kept", "overridden", "lacking", "removed")


@dataclass(frozen=True, eq=False, repr=False)
class PublishResult(DocumentResult):
    """A version of a store that is live now, or staged.

    Example:
        >>> published = corank.publish("bundle", "lmdb:store")
        >>> published.version == published["version"], published.tables["items"].columns
        (True, ['item', 'became'])
    """

    version: str = field(kw_only=True)
    """Its name, as `corank.roll_back` takes it."""
    staged: bool = field(default=False, kw_only=True)
    """Whether it is not live yet."""

    @classmethod
    def of(cls, version: str, merged: MergedItems | None, staged: bool = False) -> Self:
        """The result of a publication.

        Args:
            version: its name.
            merged: what became of items that were upserted before; None if the version was live already.
            staged: whether it is not live yet.
        """
        return cls({"version": version} if merged is None else asdict(merged), version=version, staged=staged)

    @property
    def headline(self) -> str:
        """The version, and how many items were upserted before."""
        counts = [f"{len(self.document[name])} {name}" for name in _MERGED if self.document.get(name)]
        return ", ".join([f"{self.version} is {self._state}", *counts])

    @property
    def lines(self) -> Sequence[str]:
        """The version, as other commands take it."""
        return [f"{self._state}: {self.version}"]

    @property
    def _state(self) -> str:
        return "staged" if self.staged else "live"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`items`: what became of each item that was upserted before: `kept` on top, `overridden` by the table, or
        `lacking` in it, or that was `removed`."""
        rows = ({"item": str(item), "became": name} for name in _MERGED for item in self.get(name, ()))
        return {"items": frame(rows, ["item", "became"])}


Files = str | list[str]
"""The files of a table: a path, a glob or a URL, or several."""


def publish(
    bundle: PathOrUrl,
    store: str,
    users: TableSource | None = None,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
    sign: Sequence[PathOrUrl] = (),
    stage: bool = False,
) -> PublishResult:
    """Put a bundle into a store and make it live, whole or not at all.

    Args:
        bundle: the bundle's folder, or its URL.
        store: the store's address; an LMDB store that does not exist is created.
        users: a table of users, for requests that give a user's id alone: files or a frame.
        report: takes a line about each step.
        progress: takes how many records are written, and of how many.
        sign: private ed25519 keys, PEM files, that sign the version, and that it is live.
        stage: leave what is live: `corank serve --version` serves the version, `promote` makes it live.

    Returns the version, and what became of earlier upserts. Raises BundleError, DataError, StoreError,
    TrustError; the live version is unchanged then.

    Example:
        >>> version = corank.publish("bundle", "lmdb:store", users="shop/users.parquet").version
        >>> [entry["version"] == version for entry in corank.store_versions("lmdb:store") if entry["live"]]
        [True]
    """
    keys, location = SigningKeys.load([require_local(key) for key in sign]), parse_location(bundle)
    load_manifest(location)  # a folder that cannot be read as a bundle creates no store
    merged: list[MergedItems] = []
    with (
        closing(open_store(store, create=True)) as opened,
        temporary_frames() as frames,
        show_progress("records", progress) as advance,
    ):
        if users is not None:
            count = put_users(frames.source("users", users), Bundle.open(location), opened)
            report(f"users: {count:,}")
        version = publish_bundle(location, opened, report, advance, keys, merged.append, stage)
    return PublishResult.of(version, merged[0] if merged else None, stage)


@printed("{out}: {result:,} users")
def users(
    bundle: PathOrUrl,
    out: Annotated[PathOrUrl, Option("--out")],
    log: Annotated[TableSource | None, Option(parse=list, repeated=True)] = None,
    table: Annotated[TableSource | None, Option("--users")] = None,
    events: Annotated[Mapping[str, TableSource] | None, EVENTS] = None,
    until: str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> int:
    """Write a table of users for `publish`: their columns, and the histories of a bundle.

    Args:
        bundle: the bundle's folder, or its URL.
        out: the Parquet file to write.
        log: the table of candidates, if the bundle makes histories of it: files, globs, URLs or a frame.
        table: a table of users, to take over its columns.
        events: by name of `data.events`, the tables of the bundle's histories.
        until: a day or a time in the log's time zone; histories have what a request then sees. After the last row
            unless given.
        overwrite: replace the file `out`.
        progress: takes how many users are done, and of how many.

    Returns the number of users. Raises BundleError, DataError.

    Example:
        >>> corank.users("bundle", "users.parquet", log="shop/log/*.parquet", table="shop/users.parquet")
        40
    """
    path = require_local(out)
    if path.exists() and not overwrite:
        raise DataError(f"{path}: exists; name another file, or replace it with --overwrite")
    manifest = load_manifest(parse_location(bundle))
    moment = None if until is None else manifest.data.milliseconds(until)
    with temporary_frames() as frames, show_progress("users", progress) as advance:
        tables = frames.source("log", log), frames.source("users", table), frames.sources(events)
        sources = UserSources.open(manifest, *tables)
        return write_users(sources, path, moment, advance)


def _versions_view(versions: Sequence[Mapping[str, Any]]) -> View:
    """A store's versions, as `corank.store_versions` lists them."""
    rows = []
    for entry in versions:
        facts = entry["facts"]
        name, items = (facts["name"], facts["items"]) if facts else ("", entry["records"])
        when = format_time(facts["published_at"])[:16] if facts else ""
        rows.append([entry["version"], _state(entry), when, f"{items:,}", f"{entry['changed']:,}", name])
    columns = ["version", "", "published, UTC", "items", "newer", "name"]
    names = {row[-1] for row in rows} - {""}
    title = ""
    if len(names) == 1:  # said once, so that a terminal of 80 columns has room for the table
        (title,) = names
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    table = Table(columns, rows, title, left=["", "published, UTC", "name"])
    faults = [entry["unreadable"] for entry in versions if entry["unreadable"]]
    return View("Versions", "", [Section("", [table, *faults])])


def _state(entry: Mapping[str, Any]) -> str:
    facts = entry["facts"]
    if not facts:
        return "unfinished"
    if entry["unreadable"]:
        return "live, unreadable" if entry["live"] else "unreadable"
    if entry["live"]:
        return "live"
    return "withdrawn" if facts["withdrawn"] else "" if facts["seq"] else "staged"


def _log_view(changes: Sequence[Mapping[str, Any]]) -> View:
    """What was done to a store, a line each, as `corank.store_log` reads it; a change as --items-as-of takes it."""
    return View("Log", "", [Section("", [*map(_describe_change, changes)])])


def _describe_change(change: Mapping[str, Any]) -> str:
    what = change["what"] + (f" of {change['items']:,} items" if change["items"] else "")
    what += f", {change['removed_items']:,} removed" if change["removed_items"] else ""
    about = (
        ", ".join(change["removed"]) if change["what"] == "prune" else change["beside"] or change["version"]
    )
    when, name = format_time(change["at"]), f"{change['change']}-{change['id'] or '?'}"
    return f"{when}  {name}  {change['by']}  {what}  {about}"


@printed(_versions_view)
def store_versions(store: str) -> list[dict[str, Any]]:
    """List a store's versions, as `corank store ls --json` prints them.

    Args:
        store: the store's address: `lmdb:PATH`, `redis://HOST:PORT/DB` or `redis+cluster://HOST:PORT,HOST:PORT`.

    Returns for each `version`, `live`, `records`, `changed`, `facts` (if complete) and `unreadable` (why
    this release cannot read it, if so). Raises StoreError.

    Example:
        >>> [entry["facts"]["items"] for entry in corank.store_versions("lmdb:store") if entry["live"]]
        [120]
    """
    with closing(open_store(store)) as opened:
        return [
            asdict(version) | {"facts": version.facts and version.facts.model_dump(mode="json")}
            for version in retention.list_versions(opened)
        ]


@printed(_log_view)
def store_log(store: str, last: Annotated[int, Ge(1)] = 20) -> list[dict[str, Any]]:
    """List who did what to a store, and when, as `corank store log --json` prints it, the oldest first.

    Args:
        store: the store's address.
        last: the largest number of lines.

    Returns for each `what`, `by`, `at` (ms UTC), `change` and `id`, `before` (the id of the change before), `version`,
    `items` and `removed`. Raises StoreError.

    Example:
        >>> corank.store_log("lmdb:store")[-1]["what"]
        'publish'
    """
    with closing(open_store(store)) as opened:
        return [msgspec.to_builtins(line) for line in read_log(opened)[-last:]]


@printed("live: {result}")
def roll_back(
    store: str,
    version: Annotated[str | None, Option("--to")] = None,
    report: Report = lambda line: None,
    sign: Sequence[PathOrUrl] = (),
) -> str:
    """Make an older version of a store live again, with all items that were changed since.

    All later live versions are withdrawn: a further call goes back beyond it.

    Args:
        store: the store's address.
        version: as `store_versions` names it, withdrawn or not (default: the one live before that is not withdrawn).
        report: takes a line about each step.
        sign: private ed25519 keys, PEM files, to sign that the version is live; one of them signed it before.

    Returns the version's name. Raises StoreError, TrustError.

    Example:
        >>> first = corank.publish("bundle", "lmdb:versions").version
        >>> newer = corank.refresh("refreshed", "shop/log/*.parquet")
        >>> second = corank.publish(newer.location, "lmdb:versions").version
        >>> corank.roll_back("lmdb:versions") == first
        True
    """
    keys = SigningKeys.load([require_local(key) for key in sign])
    with closing(open_store(store)) as opened:
        return retention.roll_back_store(opened, version, report, keys)


@printed("live: {version}")
def promote(
    store: str, version: str, report: Report = lambda line: None, sign: Sequence[PathOrUrl] = ()
) -> None:
    """Make a version of a store live, such as a staged one, with all items that were changed since it was staged.

    Args:
        store: the store's address.
        version: as `store_versions` names it.
        report: takes a line about each step.
        sign: private ed25519 keys, PEM files, to sign that the version is live; one of them signed it before.

    Raises StoreError, TrustError.

    Example:
        >>> staged = corank.publish("bundle", "lmdb:promoted", stage=True).version
        >>> corank.promote("lmdb:promoted", staged)
        >>> [entry["live"] for entry in corank.store_versions("lmdb:promoted")]
        [True]
    """
    keys = SigningKeys.load([require_local(key) for key in sign])
    with closing(open_store(store)) as opened:
        retention.promote_version(opened, version, report, keys)


@printed("withdrawn: {version}")
def withdraw(store: str, version: str) -> None:
    """Let all services pinned to a version (`corank serve --version`) serve what is live.

    They return to it once it is staged, promoted or published again.

    Args:
        store: the store's address.
        version: as `store_versions` names it; not the live one, which `roll_back` replaces.

    Raises StoreError.

    Example:
        >>> staged = corank.publish("bundle", "lmdb:withdrawn", stage=True).version
        >>> corank.withdraw("lmdb:withdrawn", staged)
        >>> [entry["facts"]["withdrawn"] for entry in corank.store_versions("lmdb:withdrawn")]
        [True]
    """
    with closing(open_store(store)) as opened:
        retention.withdraw_version(opened, version)


@printed(lambda removed: f"{len(removed)} removed")
def prune(store: str, keep: Annotated[int, Ge(0)] = 1, report: Report = lambda line: None) -> list[str]:
    """Remove older versions of a store, and the rest of an interrupted publication.

    Args:
        store: the store's address.
        keep: older versions to keep besides the live one, not counting withdrawn ones.
        report: takes a line about each step.

    Returns the names of the removed versions. Raises StoreError.

    Example:
        >>> corank.prune("lmdb:store", keep=2)
        []
    """
    with closing(open_store(store)) as opened:
        return retention.remove_versions(opened, keep, report)


def replay(
    served: PathOrUrl,
    source: PathOrUrl,
    cache: PathOrUrl | None = None,
    report: Report = lambda line: None,
    trust: Sequence[PathOrUrl] = (),
) -> AgreementResult:
    """Recompute the scores of served requests, and compare them with the served ones.

    Args:
        served: the log of `corank serve --log`: a folder, or one of its files.
        source: the bundle's folder or URL, or the address of a store whose versions served.
        cache: the folder where bundles of a store are kept (default: ~/.cache/corank).
        report: takes a line about each step.
        trust: the service's public ed25519 keys, PEM files; without, versions need not be signed.

    Returns how many requests and candidates there were, and how far the scores differ. Raises DataError,
    RequestError, StoreError, BundleError, TrustError.

    Example:
        >>> corank.replay("served", "lmdb:store", "cache")["differ"]
        0
    """
    keys, source = TrustedKeys.load([require_local(key) for key in trust]), str(source)
    served = require_local(served)
    paths = [served] if served.is_file() else sorted(served.glob("served-*.parquet"))
    incomplete = describe_open_files(served)
    if not paths:
        nothing = f"{served}: no served requests here; `corank serve --log {served}` writes them"
        raise DataError(incomplete or nothing)
    if incomplete:
        report(incomplete)
    if not is_store(source):
        replayed = replay_log(paths, bundle_funnels(parse_location(source), keys), report)
    else:
        with closing(open_store(source)) as opened:
            replayed = replay_log(paths, store_funnels(opened, require_local(cache or CACHE), keys), report)
    return AgreementResult(replayed.document)

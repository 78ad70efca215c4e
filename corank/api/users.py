"""The table of users of a store, on paths."""

from collections.abc import Mapping

from corank.api.frames import TableSource, temporary_frames
from corank.api.notebook.counting import show_progress
from corank.bundle.manifest import load_manifest
from corank.core.storage.object_url import PathOrUrl, parse_location, require_local
from corank.core.types import Progress
from corank.serving.prediction.user_table import UserSources, write_users


def users(
    bundle: PathOrUrl,
    out: PathOrUrl,
    log: TableSource | None = None,
    table: TableSource | None = None,
    events: Mapping[str, TableSource] | None = None,
    until: str | None = None,
    progress: Progress = lambda done, total: None,
) -> int:
    """Write a table of users for `publish`: the histories that a bundle makes, and the columns that users have.

    Args:
        bundle: the bundle's folder, or its URL.
        out: the Parquet file to write.
        log: the table of candidates, if the bundle makes histories of it: files, globs, URLs or a frame.
        table: a table of users, whose columns are taken over.
        events: by name of `data.events`, the tables that the bundle's histories are made of.
        until: a day or a time in the log's time zone; histories have what a request then sees. After the last row
            unless given.
        progress: takes how many users are done, and of how many.

    Returns the number of users. Raises BundleError, DataError.

    Example:
        >>> corank.users("bundle", "users.parquet", log="shop/log/*.parquet", table="shop/users.parquet")
        40
    """
    manifest = load_manifest(parse_location(bundle))
    moment = None if until is None else manifest.data.milliseconds(until)
    with temporary_frames() as frames, show_progress("users", progress) as advance:
        sources = UserSources.open(
            manifest, frames.source("log", log), frames.source("users", table), frames.sources(events)
        )
        return write_users(sources, require_local(out), moment, advance)

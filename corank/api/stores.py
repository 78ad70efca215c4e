"""The verbs of serving, as functions on paths and addresses, without torch. Each raises a CorankError for a mistake."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from corank.bundle.catalogue import write_catalogue
from corank.bundle.manifest import Bundle
from corank.core.errors import DataError
from corank.core.types import Progress, Report
from corank.serving.http import replay as recompute
from corank.serving.store import publish as publishing
from corank.serving.store import retention as upkeep
from corank.serving.store.base import is_store, open_store
from corank.serving.store.users import put_users


def publish(
    bundle: Path,
    store: str,
    users: str | None = None,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> str:
    """Put a bundle into a store and make it live, and a table of users, if given, beside it; the version's name.

    Raises BundleError, DataError, StoreError; what was live before is untouched then.
    """
    opened = open_store(store, create=True)
    try:
        if users is not None:
            put = put_users(users, Bundle.open(bundle), opened)
            report(f"users: {put:,}")
        return publishing.publish(bundle, opened, report, progress)
    finally:
        opened.close()


def store_versions(store: str) -> list[dict[str, Any]]:
    """A store's versions: `version`, `live`, `records`, `changed`, and of whole ones `facts`. Raises StoreError."""
    opened = open_store(store)
    try:
        return [
            asdict(held) | {"facts": held.facts and held.facts.model_dump(mode="json")}
            for held in upkeep.held(opened)
        ]
    finally:
        opened.close()


def roll_back(store: str, version: str | None = None, report: Report = lambda line: None) -> str:
    """Make an older version live, the one before unless named; its name. Raises StoreError."""
    opened = open_store(store)
    try:
        return upkeep.roll_back(opened, version, report)
    finally:
        opened.close()


def vectors(bundle: Path, items: str, out: Path, progress: Progress = lambda done, total: None) -> int:
    """Write the vectors of a table of items, as a bundle's towers make them, as Parquet; how many.

    Raises BundleError, DataError.
    """
    return write_catalogue(bundle, items, out, progress)


def replay(
    served: Path, source: str, cache: Path, report: Report = lambda line: None
) -> recompute.ReplayResult:
    """Compute the scores of served requests anew, those logged in a folder or a file, by a store or a bundle.

    Raises DataError, RequestError, StoreError, BundleError.
    """
    paths = [served] if served.is_file() else sorted(served.glob("served-*.parquet"))
    if not paths:
        raise DataError(f"{served}: no served requests here; `corank serve --log {served}` writes them")
    if not is_store(source):
        return recompute.replay(paths, recompute.of_bundle(Path(source)), report)
    opened = open_store(source)
    try:
        return recompute.replay(paths, recompute.of_store(opened, cache), report)
    finally:
        opened.close()


def prune(store: str, keep: int = 1, report: Report = lambda line: None) -> list[str]:
    """Remove older versions of a store but for `keep` of them; their names. Raises StoreError."""
    opened = open_store(store)
    try:
        return upkeep.prune(opened, keep, report)
    finally:
        opened.close()

"""The versions of a store, as functions on its address: list, promote, withdraw, roll back, prune, replay; its log.

Each raises a CorankError for a mistake of the user.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import msgspec

from corank.bundle.signatures import SigningKeys, TrustedKeys
from corank.core.errors import DataError
from corank.core.storage.object_url import PathOrUrl, parse_location, require_local
from corank.core.types import Report
from corank.serving.log.replay import ReplayResult, bundle_funnels, replay_log, store_funnels
from corank.serving.store import retention
from corank.serving.store.base import is_store, open_store
from corank.serving.store.changes.journal import read_log


def store_versions(store: str) -> list[dict[str, Any]]:
    """List a store's versions, as `corank store ls --json` prints them.

    Returns for each `version`, `live`, `records`, `changed`, and `facts`, None unless it is complete. Raises
    StoreError.

    Example:
        >>> [entry["facts"]["items"] for entry in corank.store_versions("lmdb:store") if entry["live"]]
        [120]
    """
    with closing(open_store(store)) as opened:
        return [
            asdict(version) | {"facts": version.facts and version.facts.model_dump(mode="json")}
            for version in retention.list_versions(opened)
        ]


def store_log(store: str, last: int = 20) -> list[dict[str, Any]]:
    """Read who did what to a store, and when, as `corank store log --json` prints it, the oldest first.

    Args:
        store: the store's address.
        last: how many lines, at most.

    Returns for each `what`, `by`, `at` (ms UTC), `change` and `id`, `before` (the id of the change before), `version`,
    `items` and `removed`. Raises StoreError.

    Example:
        >>> corank.store_log("lmdb:store")[-1]["what"]
        'publish'
    """
    with closing(open_store(store)) as opened:
        return [msgspec.to_builtins(line) for line in read_log(opened)[-last:]]


def roll_back(
    store: str,
    version: str | None = None,
    report: Report = lambda line: None,
    sign: Sequence[PathOrUrl] = (),
) -> str:
    """Make an older version of a store live again, with all items that were changed since.

    Args:
        store: the store's address.
        version: as `store_versions` names it; the one before the live one unless given.
        report: takes a line about each step.
        sign: private ed25519 keys, PEM files, that sign that the version is live; one of them signed it before.

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


def promote(
    store: str, version: str, report: Report = lambda line: None, sign: Sequence[PathOrUrl] = ()
) -> None:
    """Make a version of a store live, such as a canary, with all items that were changed since it was staged.

    Args:
        store: the store's address.
        version: as `store_versions` names it.
        report: takes a line about each step.
        sign: private ed25519 keys, PEM files, that sign that the version is live; one of them signed it before.

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


def withdraw(store: str, version: str) -> None:
    """End the canary of a version in all services that follow a store; their users get the live version.

    It is over until the version is staged, promoted or published again.

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


def prune(store: str, keep: int = 1, report: Report = lambda line: None) -> list[str]:
    """Remove older versions of a store, and what an interrupted publication left.

    Args:
        store: the store's address.
        keep: older versions to keep besides the live one.
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
    cache: PathOrUrl,
    report: Report = lambda line: None,
    trust: Sequence[PathOrUrl] = (),
) -> ReplayResult:
    """Compute the scores of served requests again, and compare them with those that were served.

    Args:
        served: what `corank serve --log` wrote: a folder, or one of its files.
        source: the bundle's folder or URL, or the address of a store whose versions served.
        cache: the folder where bundles of a store are kept.
        report: takes a line about each step.
        trust: the public ed25519 keys, PEM files, that the service was given; none: versions need not be signed.

    Returns how many requests and candidates there were, and how far the scores differ. Raises DataError,
    RequestError, StoreError, BundleError, TrustError.

    Example:
        >>> corank.replay("served", "lmdb:store", "cache").differ
        0
    """
    keys, served, source = (
        TrustedKeys.load([require_local(key) for key in trust]),
        require_local(served),
        str(source),
    )
    paths = [served] if served.is_file() else sorted(served.glob("served-*.parquet"))
    if not paths:
        raise DataError(f"{served}: no served requests here; `corank serve --log {served}` writes them")
    if not is_store(source):
        return replay_log(paths, bundle_funnels(parse_location(source), keys), report)
    with closing(open_store(source)) as opened:
        return replay_log(paths, store_funnels(opened, require_local(cache), keys), report)

"""Served requests scored again, as a function on paths. It raises a CorankError for a mistake of the user."""

from collections.abc import Sequence
from contextlib import closing

from corank.bundle.signatures import TrustedKeys
from corank.core.errors import DataError
from corank.core.storage.object_url import PathOrUrl, parse_location, require_local
from corank.core.types import Report
from corank.serving.log.replay import ReplayResult, bundle_funnels, replay_log, store_funnels
from corank.serving.store.base import is_store, open_store


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

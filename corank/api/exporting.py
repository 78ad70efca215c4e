"""`corank export`: the bundle of a finished run."""

from collections.abc import Sequence

from corank.analysis.precision.logged_loss import LoggedLoss
from corank.api.results.bundle_results import BundleResult
from corank.bundle.bundle_writer import replace_bundle
from corank.bundle.items_as_of import ItemsAsOf
from corank.bundle.signatures import SigningKeys
from corank.core.storage.object_url import PathOrUrl, parse_location, require_local
from corank.training.export import export_bundle
from corank.training.run import Run


def export(
    run: PathOrUrl,
    bundle: PathOrUrl,
    sign: Sequence[PathOrUrl] = (),
    items_as_of: str | None = None,
    until: str | None = None,
    overrides: Sequence[str] = (),
) -> BundleResult:
    """Write the bundle of a finished run, whole or not at all.

    Args:
        run: the run's folder, or its URL.
        bundle: the bundle's folder, or its URL; an earlier bundle there is replaced.
        sign: private ed25519 keys, PEM files, that sign the bundle.
        items_as_of: what the run's table of items contains: a change of the store, such as `42`, or a day or a time
            in the config's time zone. Items upserted later go on top of the version; all do unless given.
        until: a day or a time in the config's time zone until which the log is complete; its last row unless given.
            Priors are of the last snapshot at or before it: `2026-05-01` takes all of 30 April.
        overrides: changes `export.KEY=value` of the run's config, such as `export.precision={prerank.vector: fp16}`.

    Returns the bundle, and what it holds. Raises CheckpointError, DataError, BundleError, TrustError, ConfigError if a
    precision of `export.precision` loses too much, and BusyError if another process writes the bundle.

    Example:
        >>> corank.export("shop/runs/shop", "exported")["stages"]
        ['prerank', 'rank']
    """
    keys = SigningKeys.load([require_local(key) for key in sign])
    location, opened = parse_location(bundle), Run.open(parse_location(run)).with_export(overrides)
    packed = opened.packed()
    as_of = None if items_as_of is None else ItemsAsOf.parse(items_as_of, opened.config.data)
    moment = None if until is None else opened.config.data.milliseconds(until)
    model, calibrators, weights = opened.networks(packed)
    written = replace_bundle(
        location,
        lambda folder: export_bundle(
            folder,
            opened.config,
            packed,
            model,
            calibrators,
            keys,
            as_of,
            weights,
            moment,
            measure=LoggedLoss(opened, packed),
        ),
        reads=False,
    )
    return BundleResult.of(written, location)

"""`corank refresh`, `rank` and `conformance`, what needs a bundle and no training."""

from collections.abc import Mapping, Sequence
from typing import Any

from corank.api.frames import TableSource, temporary_frames
from corank.api.results.bundle_results import BundleResult
from corank.bundle.bundle_writer import replace_bundle
from corank.bundle.incremental_log import RefreshSources
from corank.bundle.items_as_of import ItemsAsOf
from corank.bundle.manifest import load_manifest
from corank.bundle.refresh import refresh_bundle
from corank.bundle.signatures import SigningKeys
from corank.core.errors import DataError
from corank.core.extras import name_missing_extra
from corank.core.storage.object_url import PathOrUrl, parse_location, require_local
from corank.core.types import Report
from corank.serving.conformance.cases import read_lines, write_cases
from corank.serving.conformance.comparison import compare_case_files
from corank.serving.conformance.drawn_requests import draw_requests
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request


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
    with name_missing_extra("corank.export"):  # these load torch
        from corank.analysis.precision.logged_loss import LoggedLoss
        from corank.training.export import export_bundle
        from corank.training.run import Run

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


def refresh(
    bundle: PathOrUrl,
    log: TableSource,
    items: TableSource | None = None,
    users: TableSource | None = None,
    until: str | None = None,
    report: Report = lambda line: None,
    sign: Sequence[PathOrUrl] = (),
    items_as_of: str | None = None,
    events: Mapping[str, TableSource] | None = None,
) -> BundleResult:
    """Update a bundle's priors, item records and vectors from a newer log, without training.

    Args:
        bundle: the bundle's folder, or its URL.
        log: the newer log: a file, a glob or a URL, or a frame, as the other tables.
        items: a newer table of items, with new ones.
        users: a table of users, needed if a prior counts by one of its columns.
        until: a day or a time in the config's time zone until which the log is complete; its last row unless given.
        report: takes a line about each step.
        sign: private ed25519 keys, PEM files, that sign the refreshed bundle.
        items_as_of: what `items` contains, as for `export`; the bundle's own as-of holds unless given.
        events: by name of `data.events`, newer tables of the events that priors count: files, globs or URLs.

    Returns the bundle, and what it holds. Raises BundleError, DataError, TrustError, and BusyError if another process
    writes the bundle.

    Example:
        >>> refreshed = corank.refresh("refreshed", "shop/log/*.parquet", items="shop/items.parquet")
        >>> refreshed["model_version"] == corank.Funnel.open("bundle").manifest.model_version
        True
    """
    keys, location = SigningKeys.load([require_local(key) for key in sign]), parse_location(bundle)
    if items_as_of is not None and items is None:
        raise DataError("--items-as-of says what --items contains; give both")
    data = load_manifest(location).data
    moment = None if until is None else data.milliseconds(until)
    as_of = None if items_as_of is None else ItemsAsOf.parse(items_as_of, data)
    with temporary_frames() as frames:
        named = {name: frames.source(name, table) for name, table in (("items", items), ("users", users))}
        sources = RefreshSources(
            frames.source("log", log),
            **named,
            until=moment,
            events=frames.sources(events),
            items_as_of=as_of,
        )
        written = replace_bundle(
            location, lambda folder: refresh_bundle(folder, sources, report, keys), reads=True
        )
    return BundleResult.of(written, location)


def rank(
    bundle: PathOrUrl, request: PathOrUrl | Mapping[str, Any], trust: Sequence[PathOrUrl] = ()
) -> dict[str, Any]:
    """Rank the candidates of a request in this process. `corank.Funnel` keeps a bundle open for many requests.

    Args:
        bundle: the bundle's folder, or its URL.
        request: a JSON file such as `corank request` prints, or a mapping of the same keys.
        trust: public ed25519 keys, PEM files, one of which must have signed the bundle; none: it need not be signed.

    Returns the document that `corank rank --json` prints. Raises BundleError, RequestError, TrustError.

    Example:
        >>> answer = corank.rank("bundle", {"user": {"id": 7}, "candidates": [3, 11], "time": "2026-03-11"})
        >>> sorted(item["id"] for item in answer["items"])
        [3, 11]
    """
    funnel = Funnel.open(bundle, trust)
    return funnel.rank(request if isinstance(request, Mapping) else Request.read(require_local(request)))


def conformance(
    bundle: PathOrUrl,
    out: PathOrUrl,
    requests: PathOrUrl | None = None,
    number: int = 100,
    seed: int = 0,
) -> int:
    """Write test cases of a bundle, by which a reader in another language can be checked step by step.

    Args:
        bundle: the bundle's folder, or its URL.
        out: the file to write: a case a line, in JSON (docs/bundle-format.md).
        requests: a file of requests, one a line in JSON, each with a time; random ones unless given.
        number: how many random requests.
        seed: of random requests.

    Returns how many cases were written. Raises BundleError, RequestError.

    Example:
        >>> corank.conformance("bundle", "cases.jsonl", number=2)
        2
    """
    funnel = Funnel.open(bundle)
    drawn = draw_requests(funnel, seed, number)
    test_requests = drawn if requests is None else read_lines(require_local(requests), "request")
    return write_cases(require_local(out), funnel, test_requests)


def compare_cases(cases: PathOrUrl, found: PathOrUrl) -> dict[str, float]:
    """Compare what a reader in another language made of test cases with them.

    Args:
        cases: the file that `conformance` wrote.
        found: what the reader made of each case: a line each, in the same form (docs/bundle-format.md).

    Returns the largest difference of each step. Numbers beyond 1 count relative; infinity if something is of another
    form. Raises RequestError.

    Example:
        >>> cases = corank.conformance("bundle", "shop.jsonl", number=2)
        >>> corank.compare_cases("shop.jsonl", "shop.jsonl")["answer"]
        0.0
    """
    return compare_case_files(require_local(cases), require_local(found))

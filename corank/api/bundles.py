"""The commands that write bundles, and those that need a bundle and no training, as functions on paths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
from annotated_types import Ge

from corank.api.frames import TableSource, temporary_frames
from corank.api.results import AgreementResult, DocumentResult, frame
from corank.bundle.bundle import Bundle, replace_bundle
from corank.bundle.incremental_priors import RefreshSources
from corank.bundle.manifest import BundleManifest, ItemsAsOf, load_manifest
from corank.bundle.refresh import refresh_bundle
from corank.bundle.signatures import SigningKeys
from corank.core.errors import DataError
from corank.core.lazy import name_missing_extra
from corank.core.objects import Location, PathOrUrl, parse_location, require_local
from corank.core.options import EVENTS, Overrides, printed
from corank.core.reports import Report
from corank.core.time import NEVER, format_time
from corank.core.view import Block, Section, Table, View
from corank.funnel.conformance import compare_case_files, read_lines, write_cases
from corank.funnel.funnel import Funnel
from corank.funnel.random_requests import draw_requests
from corank.funnel.request import Request


@dataclass(frozen=True, eq=False, repr=False)
class BundleResult(DocumentResult):
    """A bundle that was written.

    Example:
        >>> exported = corank.export("shop/runs/shop", "exported")
        >>> exported.tables["stages"]["stage"].to_list()
        ['prerank', 'rank']
        >>> exported.bundle.manifest.model_version == exported["model_version"]
        True
    """

    bundle: Bundle = field(kw_only=True)
    """The bundle, opened; `corank.Funnel.open` takes its location."""
    location: Location = field(kw_only=True)
    """Its folder, or its URL."""

    @classmethod
    def of(cls, bundle: Bundle, location: Location) -> Self:
        """The result of what was written at a location."""
        manifest = bundle.manifest
        loss, retrieval = manifest.precision_loss, manifest.retrieval
        document = {
            "bundle": str(location),
            "name": manifest.name,
            "model_version": manifest.model_version,
            "items_seq": manifest.items_seq,
            "content": manifest.content,
            "stages": [stage.name for stage in manifest.stages],
            "priors": dict(manifest.priors),
            "signed_by": [signature.key for signature in manifest.signatures],
            "precision_loss": loss and loss.model_dump(mode="json"),
            "retrieval": retrieval and retrieval.model_dump(mode="json"),
            "parts": {name: file.bytes for name, file in manifest.files.items()},
        }
        return cls(document, bundle=bundle, location=location)

    @property
    def headline(self) -> str:
        """Location and version of the bundle."""
        return f"{self['bundle']}: model {self['model_version']}, items {self['items_seq']}"

    @property
    def lines(self) -> Sequence[str]:
        """Its versions, what each stage runs, until when its priors know the log, and its retrieval."""
        manifest = self.bundle.manifest
        lines = [f"bundle: {self.location}  model {manifest.model_version}  items {manifest.items_seq}"]
        lines += describe_stages(manifest)
        times: dict[int, list[str]] = {}
        for name, cut in manifest.priors.items():
            times.setdefault(cut, []).append(name)
        for cut, names in sorted(times.items()):
            known = "nothing" if cut == NEVER else f"the log until {format_time(cut)}"
            lines.append(f"priors that know {known}: {', '.join(names)}")
        if any(feature.as_history for feature in manifest.features.values()):
            lines.append("histories are not in the bundle: requests carry them, or a store of users has them")
        if manifest.precision_loss is not None:
            lines += manifest.precision_loss.lines(manifest.stages)
        if (retrieval := manifest.retrieval) is not None:
            lines.append(
                f"retrieval: the best {retrieval.keep:,} of the vectors of stage '{retrieval.stage}'"
            )
        return lines

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`stages`: what each computes; `parts`: bytes of each file; `priors`: the time of the log, UTC, that each
        knows."""
        stages = [
            {"stage": s.name, "scorer": s.scorer, "keep": s.keep, "value": str(s.value)}
            for s in self.bundle.manifest.stages
        ]
        parts = ({"part": name, "bytes": size} for name, size in self["parts"].items())
        priors = ({"feature": name, "until": until} for name, until in self["priors"].items())
        return {
            "stages": pl.DataFrame(stages),
            "parts": frame(parts, ["part"], bytes=pl.Int64),
            "priors": frame(priors, ["feature"], until=pl.Int64),
        }


def describe_stages(manifest: BundleManifest) -> list[str]:
    """Describe what is run for the candidates of each stage, a line each."""
    lines = []
    for stage in manifest.stages:
        parts = ", ".join(f"{name} ({width} numbers)" for name, width in stage.item_parts.items())
        if stage.scorer == "parts":
            line = f"one graph over item parts: {parts}"
        elif parts:
            line = f"scorer '{stage.scorer}' over item parts: {parts}"
        else:
            line = (
                f"the whole network for every candidate (scorer '{stage.scorer}'), since its stage model keeps "
                "nothing of items: `dcn` and `trees` read them whole, `ahead: false` says so, a plug-in has no graph "
                "`value`"
            )
        if f"{stage.name}.value.onnx" not in manifest.files:
            line += "; it has no graph of its value, so that readers in other languages cannot run it"
        lines.append(f"{stage.name}: {line}")
    return lines


def export(
    run: PathOrUrl,
    bundle: PathOrUrl,
    sign: Sequence[PathOrUrl] = (),
    items_as_of: str | None = None,
    until: str | None = None,
    overrides: Overrides = (),
) -> BundleResult:
    """Write the bundle of a finished run, whole or not at all.

    Args:
        run: the run's folder, or its URL.
        bundle: the bundle's folder, or its URL; an earlier bundle there is replaced.
        sign: private ed25519 keys, PEM files, that sign the bundle.
        items_as_of: what the run's table of items contains: a change of the store, such as `42`, or a day or a time
            in the config's time zone. Items upserted later go on top of the version (default: all).
        until: a day or a time in the config's time zone until which the log is complete (default: its last row).
            Priors are of the last snapshot at or before it: `2026-05-01` takes all of 30 April.
        overrides: changes `export.KEY=value` of the run's config, such as `export.precision={prerank.vector: fp16}`.

    Returns the bundle, and what it holds. Raises CheckpointError, DataError, BundleError, TrustError, ConfigError if a
    precision of `export.precision` loses too much, and BusyError if another process writes the bundle.

    Example:
        >>> corank.export("shop/runs/shop", "exported")["stages"]
        ['prerank', 'rank']
    """
    with name_missing_extra("corank.export"):  # these load torch
        from corank.analysis.verification import LoggedLoss
        from corank.training.export import export_bundle
        from corank.training.run import Run

    keys = SigningKeys.load([require_local(key) for key in sign])
    location, opened = parse_location(bundle), Run.open(parse_location(run)).with_export(overrides)
    packed = opened.packed()
    as_of = None if items_as_of is None else ItemsAsOf.parse(items_as_of, opened.config.data)
    moment = None if until is None else opened.config.data.milliseconds(until)
    model, calibrators, weights = opened.networks(packed)
    measure = LoggedLoss(opened, packed)

    def write(folder: Path) -> Bundle:
        return export_bundle(
            folder,
            opened.config,
            packed,
            model,
            calibrators,
            keys,
            as_of,
            weights,
            moment,
            measure=measure,
            templates=opened.templates,
        )

    written = replace_bundle(location, write, reads=False)
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
    events: Annotated[Mapping[str, TableSource] | None, EVENTS] = None,
) -> BundleResult:
    """Update a bundle's priors, item records and vectors from a newer log, without training.

    Args:
        bundle: the bundle's folder, or its URL.
        log: the newer log: a file, a glob or a URL, or a frame, as the other tables.
        items: a newer table of items, with new ones.
        users: a table of users, needed if a prior counts by one of its columns.
        until: a day or a time in the config's time zone until which the log is complete (default: its last row).
        report: takes a line about each step.
        sign: private ed25519 keys, PEM files, that sign the refreshed bundle.
        items_as_of: what `items` contains, as for `export` (default: the bundle's own as-of).
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
        sources = RefreshSources(
            frames.source("log", log),
            items=frames.source("items", items),
            users=frames.source("users", users),
            until=moment,
            events=frames.sources(events),
            items_as_of=as_of,
        )
        written = replace_bundle(location, lambda out: refresh_bundle(out, sources, report, keys), reads=True)
    return BundleResult.of(written, location)


def _answer_view(answer: Mapping[str, Any]) -> View:
    """The order of an answer, and where the candidates were cut."""
    trace = {entry["id"]: entry for entry in answer.get("trace", [])}
    stages = list(max((entry["stages"] for entry in trace.values()), key=len, default={}))
    rows = []
    for rank, item in enumerate(answer["items"], start=1):
        ranks = [str(trace[item["id"]]["stages"][stage]["rank"]) for stage in stages]
        rows.append([str(rank), str(item["id"]), f"{item['score']:.5f}", *ranks])
    columns = ["rank", "item", "score", *(f"rank at {stage}" for stage in stages)]
    blocks: list[Block] = [Table(columns, rows, left=["item"], keys=2)]
    for stage in stages:
        reached = [entry for entry in trace.values() if stage in entry["stages"]]
        blocks.append(f"{stage} cut {sum(entry['cut'] == stage for entry in reached)} of {len(reached)}")
    blocks += [f"{key}: {', '.join(map(str, answer[key]))}" for key in ("unknown", "missing") if answer[key]]
    return View(
        "Answer", f"model {answer['model_version']}  items {answer['items_seq']}", [Section("Ranked", blocks)]
    )


@printed(_answer_view)
def rank(
    bundle: PathOrUrl, request: PathOrUrl | Mapping[str, Any], trust: Sequence[PathOrUrl] = ()
) -> dict[str, Any]:
    """Rank the candidates of a request in this process. `corank.Funnel` keeps a bundle open for many requests.

    Args:
        bundle: the bundle's folder, or its URL.
        request: a JSON file such as `corank request` prints, or a mapping of the same keys.
        trust: public ed25519 keys, PEM files, one of which must have signed the bundle; without, it need not be signed.

    Returns the document that `corank rank --json` prints. Raises BundleError, RequestError, TrustError.

    Example:
        >>> answer = corank.rank("bundle", {"user": {"id": 7}, "candidates": [3, 11], "time": "2026-03-11"})
        >>> sorted(item["id"] for item in answer["items"])
        [3, 11]
    """
    funnel = Funnel.open(bundle, trust)
    return funnel.rank(request if isinstance(request, Mapping) else Request.read(require_local(request)))


@printed("{out}: {result:,} cases")
def conformance(
    bundle: PathOrUrl,
    out: PathOrUrl,
    requests: PathOrUrl | None = None,
    number: Annotated[int, Ge(1)] = 100,
    seed: int = 0,
) -> int:
    """Write test cases of a bundle, to check a reader in another language step by step.

    Args:
        bundle: the bundle's folder, or its URL.
        out: the file to write: a case a line, in JSON (docs/bundle-format.md).
        requests: a file of requests, one a line in JSON, each with a time (default: random ones).
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


class CaseComparison(AgreementResult):
    """What a reader in another language made of test cases, compared with them: a row a step.

    Example:
        >>> corank.compare_cases("shop.jsonl", "shop.jsonl").row("agreement.answer")["value"]
        0.0
    """

    def require(self) -> None:
        """Raise DataError if a step differs by more than the tolerance."""
        if worst := [row["metric"] for row in self["rows"] if row["differ"]]:
            raise DataError(
                f"{', '.join(worst)}: differ by more than {self['tolerance']:g} from the test cases"
            )


def compare_cases(
    cases: PathOrUrl, found: PathOrUrl, tolerance: Annotated[float, Ge(0)] = 1e-5
) -> CaseComparison:
    """Compare a foreign reader's results with test cases.

    Args:
        cases: the file that `conformance` wrote.
        found: the reader's results, a line each, in the same form (docs/bundle-format.md).
        tolerance: the largest difference that the command accepts.

    Returns the largest difference of each step, the number of differing cases, and the worst place. Numbers beyond 1
    count relative; another form is a difference. Raises RequestError.

    Example:
        >>> cases = corank.conformance("bundle", "shop.jsonl", number=2)
        >>> corank.compare_cases("shop.jsonl", "shop.jsonl").row("agreement.answer")["value"]
        0.0
    """
    compared = compare_case_files(require_local(cases), require_local(found), tolerance)
    return CaseComparison({"rows": compared.rows, "tolerance": tolerance})

"""The commands from config to bundle, as functions on paths. Each raises a CorankError for a mistake of the user."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from corank.analysis.evaluated_run import evaluate_run
from corank.analysis.importance import measure_importance
from corank.analysis.report import report_page
from corank.analysis.study.findings import QUESTIONS
from corank.analysis.study.page import study_page
from corank.analysis.study.study import RATES, Budget, run_study
from corank.api.training import open_or_pack
from corank.bundle.bundle import Bundle
from corank.bundle.incremental_log import RefreshSources
from corank.bundle.items_as_of import ItemsAsOf
from corank.bundle.manifest import load_manifest
from corank.bundle.refresh import refresh_bundle
from corank.bundle.signatures import SigningKeys
from corank.core.errors import CorankError, DataError
from corank.core.files import write_text
from corank.core.locks import WriteLock
from corank.core.types import Report
from corank.data.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.check import CheckSummary, check_config
from corank.training.config_file import read
from corank.training.export import export_bundle
from corank.training.run import Run, packed_folder
from corank.training.sufficiency import Sufficiency


def check(config: Path, overrides: Sequence[str] = ()) -> CheckSummary:
    """Read a config and scan its tables, without packing or training.

    Args:
        config: the YAML file; its relative paths begin in its folder.
        overrides: `a.b=value` changes of the config, as of `--set`.

    Returns what would be trained: which feature enters which tower, rows by table, candidates by split and by loss.
    Raises ConfigError, DataError.

    Example:
        corank.check(Path("shop/config.yaml"), ["train.epochs=2"]).rows["log"]
    """
    return check_config(read(config, overrides), config.parent)


def pack(config: Path, overrides: Sequence[str] = (), report: Report = lambda line: None) -> PackedDataset:
    """Pack the tables of a config into memory-mapped arrays, in `packed/NAME` beside it.

    Args:
        config: the YAML file.
        overrides: `a.b=value` changes of the config.
        report: takes a line about each step.

    Raises ConfigError, DataError, and BusyError if another process packs there.

    Example:
        corank.pack(Path("shop/config.yaml"), report=print)
    """
    settings = read(config, overrides)
    folder = packed_folder(settings, config.parent)
    return pack_log(settings.data, settings.declared, config.parent, folder, report)


def evaluate(
    run: Path, split: str = "test", bootstrap: bool = True, reference: Path | None = None
) -> dict[str, Any]:
    """Evaluate the stages of a run, alone and as a cascade.

    Args:
        run: the run's folder.
        split: `train`, `valid` or `test`.
        bootstrap: whether to compute 95 % intervals over users.
        reference: a run on the same packed data, trained without selection bias; adds the stages' bias regret.

    Returns the document that `corank evaluate --json` prints. Raises CheckpointError, DataError.

    Example:
        corank.evaluate(Path("shop/runs/shop"))["stages"]["rank"]["exposed"]["click"]["auc"]
    """
    unbiased = None if reference is None else Run.open(reference)
    return evaluate_run(Run.open(run), split, bootstrap, unbiased).document


def report(run: Path, out: Path | None = None, split: str = "test") -> Path:
    """Write a run's report, one self-contained HTML page.

    Args:
        run: the run's folder.
        out: the page's file; `report.html` in the run's folder unless given.
        split: `train`, `valid` or `test`.

    Returns the page's path. Raises CheckpointError, DataError, BundleError, RequestError, and CorankError if it
    cannot be written.

    Example:
        corank.report(Path("shop/runs/shop"), Path("report.html"))
    """
    path = out or run / "report.html"
    write_text(path, report_page(evaluate_run(Run.open(run), split)))
    return path


def study(
    config: Path,
    out: Path | None = None,
    seeds: int = 3,
    questions: Iterable[int] = QUESTIONS,
    rates: Sequence[float] = RATES,
    overrides: Sequence[str] = (),
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Answer eight questions about joint training on a config's log, by training variants of the config.

    Args:
        config: the YAML file.
        out: the study's folder; `studies/NAME` beside the config unless given. Variants that it holds from an
            interrupted study are not trained again.
        seeds: seeds a variant.
        questions: numbers of the questions.
        rates: factors on all learning rates, among which each variant's is chosen.
        overrides: `a.b=value` changes of the config.
        report: takes a line about each training.

    Returns the document that is also written to `study.json`, beside the page `study.html`. Raises ConfigError,
    DataError, BusyError if another process writes the study, and CorankError if the folder cannot be written.

    Example:
        corank.study(Path("shop/config.yaml"), seeds=2, questions=[1, 6])["questions"]["1"]["verdict"]
    """
    settings = read(config, overrides)
    folder = out or config.parent / "studies" / settings.name
    try:
        lock = WriteLock.of_folder(folder, "study")
    except OSError as error:
        raise CorankError(f"{folder}: cannot be written: {error}; name another place with --out") from None
    with lock:
        packed = open_or_pack(settings, config, report)
        Sufficiency.of(settings, packed).require()
        document = run_study(
            settings, packed, config.parent, folder, questions, Budget(seeds, tuple(rates)), report
        )
        write_text(folder / "study.html", study_page(document))
    return document


def explain(
    run: Path, split: str = "valid", most: int = 20_000, report: Report = lambda line: None
) -> dict[str, Any]:
    """Measure what each feature is worth to each stage of a run, and what it takes online.

    Args:
        run: the run's folder.
        split: `train`, `valid` or `test`.
        most: requests to measure on, at most.
        report: takes a line about each step.

    Returns the document that `corank explain --json` prints. Raises CheckpointError, DataError, BundleError,
    RequestError.

    Example:
        corank.explain(Path("shop/runs/shop"))["features"]["brand"]["stages"]["rank"]["auc"]["value"]
    """
    return measure_importance(Run.open(run), split, most, report=report)


def export(run: Path, bundle: Path, sign: Sequence[Path] = (), items_as_of: str | None = None) -> Bundle:
    """Write the bundle of a finished run, whole or not at all.

    Args:
        run: the run's folder.
        bundle: the bundle's folder; an earlier bundle there is replaced.
        sign: private ed25519 keys, PEM files, that sign the bundle.
        items_as_of: what the run's table of items contains: a change of the store, such as `42`, or a day or a time
            in the config's time zone. Items upserted later go on top of the version; all do unless given.

    Raises CheckpointError, DataError, BundleError, TrustError, and BusyError if another process writes the bundle.

    Example:
        corank.export(Path("shop/runs/shop"), Path("bundle")).manifest.model_version
    """
    keys, opened = SigningKeys.load(sign), Run.open(run)
    packed = opened.packed()
    as_of = None if items_as_of is None else ItemsAsOf.parse(items_as_of, opened.config.data)
    model, calibrators, weights = opened.networks(packed)
    return export_bundle(bundle, opened.config, packed, model, calibrators, keys, as_of, weights)


def refresh(
    bundle: Path,
    log: str,
    items: str | None = None,
    users: str | None = None,
    until: str | None = None,
    report: Report = lambda line: None,
    sign: Sequence[Path] = (),
    items_as_of: str | None = None,
) -> Bundle:
    """Update a bundle's priors, item records and vectors from a newer log, without training.

    Args:
        bundle: the bundle's folder.
        log: the newer log: a file, a glob or a URL.
        items: a newer table of items, with new ones.
        users: a table of users, needed if a prior counts by one of its columns.
        until: a day or a time in the config's time zone until which the log is complete; its last row unless given.
        report: takes a line about each step.
        sign: private ed25519 keys, PEM files, that sign the refreshed bundle.
        items_as_of: what `items` contains, as for `export`; the bundle's own as-of holds unless given.

    Raises BundleError, DataError, TrustError, and BusyError if another process writes the bundle.

    Example:
        corank.refresh(Path("bundle"), "log/2026-03-11.parquet", items="items.parquet", until="2026-03-12")
    """
    keys = SigningKeys.load(sign)
    if items_as_of is not None and items is None:
        raise DataError("--items-as-of says what --items contains; give both")
    data = load_manifest(bundle).data
    moment = None if until is None else data.milliseconds(until)
    as_of = None if items_as_of is None else ItemsAsOf.parse(items_as_of, data)
    sources = RefreshSources(log, items, users, until=moment, items_as_of=as_of)
    return refresh_bundle(bundle, sources, report, keys)


def rank(bundle: Path, request: Path, trust: Sequence[Path] = ()) -> dict[str, Any]:
    """Rank the candidates of a request in this process. `corank.Funnel` keeps a bundle open for many requests.

    Args:
        bundle: the bundle's folder.
        request: a JSON file such as `corank request` prints.
        trust: public ed25519 keys, PEM files, one of which must have signed the bundle; none: it need not be signed.

    Returns the document that `corank rank --json` prints. Raises BundleError, RequestError, TrustError.

    Example:
        corank.rank(Path("bundle"), Path("request.json"))["items"][0]["id"]
    """
    return Funnel.open(bundle, trust).rank(Request.read(request))

"""A log of one's own as corank's tables and a ready config: a row an impression with lists, or a row an exposure."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from corank.core.files import atomic_folder
from corank.core.reports import Report
from corank.core.yaml_names import quote
from corank.data.recurrence import BUCKETS
from corank.datasets.importer import IMPORTERS, ImportedSplit
from corank.datasets.list_columns import free_name
from corank.datasets.list_features import ListFeatures, describe_features
from corank.datasets.list_files import readable
from corank.datasets.list_log import LogFacts, read_log, write_log
from corank.datasets.list_nulls import NullTexts
from corank.datasets.list_roles import ListRoles


@dataclass(frozen=True)
class ListsSummary:
    """The result of an import of lists."""

    impressions: int
    candidates: int
    split: ImportedSplit
    features: tuple[str, ...]


@IMPORTERS.register("lists")
class Lists(ListRoles):
    """Import a log of your own, in Parquet or CSV: a row an impression with a list of candidates, or a row an exposure.

    Rows of exposures, whose candidate is no list, are grouped by `--request`, or else by `--user` and `--time`.
    """

    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write log, items and config; see `write_lists`."""
        write_lists(source, out, self, report)


def write_lists(
    source: Path, out: Path, columns: ListRoles, report: Report = lambda line: None
) -> ListsSummary:
    """Write `log.parquet`, `config.yaml`, and tables of items and users if there are such, whole or not at all.

    Features are chosen by the types of columns, and by what helps on such logs: rates of clicks by item and user, how
    many candidates a request has, what has an element a candidate, lists of the request. Columns that look as if they
    were logged after the click are no features, unless `along` names them. The last days are for validation and
    test, or the last two tenths of the requests (`split_by_days`). Batches and epochs follow the number of requests.

    Args:
        source: a Parquet or CSV file, or a folder of such files.
        out: a folder that is not there or empty.
        columns: which column is what.
        report: takes a line about each step.

    Raises:
        DataError: a file or a column is missing, or a row cannot be read.
    """
    columns.check()
    with atomic_folder(out) as unfinished, TemporaryDirectory(dir=unfinished) as work:
        nulls = NullTexts(tuple(columns.names_of("nulls")), report)
        with readable(source):
            log, read = read_log(source, columns, nulls, Path(work), report)
            facts = write_log(log, read, unfinished / "log.parquet", report)
        roles = read.settled
        features = describe_features(facts, roles, nulls, unfinished, source, report)
        nulls.refuse_unfound()
        text = "".join(_config(roles, facts, features))
        (unfinished / "config.yaml").write_text(text, encoding="utf-8")
        report(f"{facts.impressions:,} impressions, {facts.candidates:,} candidates; split {facts.split}")
        report(f"features: {', '.join(features.lines)}")
        if features.order.said:
            report(features.order.said)
        for line in features.left_out:
            report(f"left out: {line}")
    return ListsSummary(facts.impressions, facts.candidates, facts.split, tuple(features.lines))


def _config(columns: ListRoles, facts: LogFacts, features: ListFeatures) -> Iterator[str]:
    """The config, piece by piece."""
    labels, chosen = columns.names_of("labels"), columns.names_of("chosen")
    order = features.order
    beside = [*labels, *features.along]
    along = f", along: [{', '.join(map(quote, beside))}]" if beside else ""
    members = ", ".join(f"is_{n}: {quote(column)}" for n, column in enumerate(chosen))
    yield "# A log of impressions, as `corank import lists` wrote it. Features were chosen by the types of columns.\n"
    yield "name: lists\n\ndata:\n"
    if not facts.times:
        yield "  # The log has no times. These are a minute apart, in the order of its rows: rates know all but the\n"
        yield "  # last 60 requests. A service has no such clock: it knows the rates of its bundle, or last refresh.\n"
    if not facts.users:
        yield "  # The log names no users: each request is its own.\n"
    yield f"  log: {{files: log.parquet, list: {quote(columns.candidates)}{along}"
    yield f", members: {{{members}}}" if members else ""
    yield f", index: {quote(order.name)}}}\n" if order.is_index else "}\n"
    yield "  items: items.parquet\n" if columns.items is not None else ""
    yield "  users: users.parquet\n" if columns.users is not None else ""
    yield f"  request: [{', '.join(map(quote, columns.names_of('request') or ['impression']))}]\n"
    yield f"  user: {quote(columns.user)}\n  item: {quote(columns.item)}\n  time: {quote(columns.time)}\n"
    yield f"  position: {quote(order.name)}\n" if order.role == "effect" else ""
    yield "  labels:\n"
    for title, column in columns.label_names.items():
        yield f"    {title}: {{column: {quote(column)}}}\n"
    yield f"  split: {facts.split}\n\n"
    yield f"known_before: [{', '.join(map(quote, features.known))}]\n\n" if features.known else ""
    yield "features:\n"
    for name, settings in features.lines.items():
        yield f"  {quote(name)}: {settings}\n"
    for line in features.left_out:
        yield f"  # left out: {line}\n"
    yield "  # how many candidates a request has, and rates of clicks so far\n"
    yield f"  {free_name('candidates', features.lines)}: {{kind: candidates}}\n" if features.sized else ""
    for name, settings in _rates(columns, facts, features).items():
        yield f"  {name}: {settings}\n"
    # a tower does not read the request's other candidates, nor the user with the item
    kinds = ("kind: within", "kind: count", "kind: since", BUCKETS)
    matches = [name for name, settings in features.lines.items() if any(kind in settings for kind in kinds)]
    read = f", matches: [{', '.join(matches)}]" if matches else ""
    # `click` is the label of all parts unless they name another
    of = "" if columns.label == "click" else f", label: {columns.label}"
    learns = f", labels: [{columns.label}], value: {columns.label}" if of else ""
    yield f"\nstages:\n  - {{name: prerank, model: towers, keep: 20{of}{read}}}\n"
    yield f"  - {{name: rank, model: mlp, keep: 10, dcn: {{layers: 2, rank: 32}}{learns}}}\n"
    yield f"\nlosses:\n  - {{kind: click, stage: rank{of}}}\n  - {{kind: click, stage: prerank{of}}}\n"
    yield f"  - {{kind: distill, teacher: rank, student: prerank, on: [exposed], weight: 3{of}}}\n"
    yield "\ntrain: {epochs: auto, requests: auto, average: 0.99, table: {lr: 0.01}}\n"
    yield "\nbaseline: true  # ends a training with boosted trees on the same rows\n"


def _rates(columns: ListRoles, facts: LogFacts, features: ListFeatures) -> dict[str, str]:
    """Describe the rates of clicks so far, and how often something was shown."""
    user, lines = free_name(columns.user, {}), dict[str, str]()

    def add(name: str, by: str, label: str = "", more: str = "") -> None:
        settings = f"kind: prior, by: [{quote(by)}]{label}, every: 1h{more}"
        lines[free_name(name, features.lines | lines)] = f"{{{settings}}}"

    clicks, smoothed = f", label: {columns.label}", ", smoothing: auto"
    known = {"item": columns.item} | ({"user": user} if facts.users else {})
    for what, by in known.items():
        add(f"{what}_clicks", by, clicks, smoothed)
        add(f"{what}_shown", by)
    add("item_clicks_lately", columns.item, clicks, f", half_life: 1d{smoothed}")
    for name in features.categories:
        if "kind: ids" not in features.lines[name]:
            add(f"{name}_clicks", name, clicks, smoothed)
    return lines

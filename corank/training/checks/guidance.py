"""Findings on features, settings and losses that a log asks for and its config lacks, with the lines that add them.

GAINS quotes what they gained on other logs, from docs/results and LOG.md. RECIPES are the losses beside the clicks that
`corank simulate`, importers and examples write; `scripts/bench defaults` measures them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import yaml

from corank.core.yaml_names import quote
from corank.data.log_summary import identifying_columns
from corank.data.recurrence import OFTEN_AGAIN, describe_events, find_categories, recurrence_features
from corank.data.tables import VALID_FROM
from corank.features.log_schema import POSITIONS
from corank.training.checks.findings import Finding, name_some
from corank.training.checks.profile import Profile

PURE, SIMULATED = "KuaiRand-Pure (docs/results/logs.md)", "simulated worlds (docs/results/joint-training.md)"
GAINS: dict[str, str | None] = {
    "candidates": None,
    "prior": f"rates and counts of user, video and author added +.0139 to the ranker's AUC, on {PURE}",
    "age": "ages of items added .013 to .015 to the AUC of a logistic regression on rates, on a simulated news site "
    "(LOG.md)",
    "within": "the rank of a price added +.032 to the ranker's AUC and +.072 to the pre-ranker's, on a drawn site of "
    "hotels (docs/results/logs.md)",
    "history": f"histories of clicks and long views added +.0021 to the ranker's AUC, on {PURE}",
    "recurrence": "counts and times since of item and category added +.070 to the ranker's AUC and +.065 to the "
    "pre-ranker's, on a drawn log whose users return to items (docs/guides/features.md)",
    "position": None,
    "unexposed": "negatives from what was cut and a softmax over the batch took the joint recall of the truly best "
    "from .2921 to .2990, from .3133 to .3456 and from .3123 to .3697, on the simulated worlds weak, medium and strong "
    "(docs/results/joint-training.md)",
    "in_batch": "a softmax over the batch beside negatives added +.0023 to +.0046 to the joint recall of the truly "
    f"best, on {SIMULATED}",
}
"""What was gained by what, on which log, and the page from the root of the repository, by kind of feature, loss or
setting; None where nothing is measured yet. A test finds the figures on the pages."""


@dataclass(frozen=True)
class Recipe:
    """Losses in addition to each stage's clicks, for one kind of log."""

    losses: tuple[Mapping[str, Any], ...]
    """With the levels and stages of a simulated world."""
    measured: str
    """Where they did best."""

    @property
    def kinds(self) -> list[str]:
        """The kinds of its losses."""
        return [loss["kind"] for loss in self.losses]


RECIPES = {
    "levels": Recipe(
        (
            {
                "kind": "unexposed",
                "stage": "prerank",
                "from": ["retrieved"],
                "per_request": 10,
                "weight": 0.2,
            },
            {"kind": "in_batch", "stage": "prerank", "weight": 0.05, "temperature": 2},
        ),
        SIMULATED,
    ),
    "exposures": Recipe(
        ({"kind": "distill", "teacher": "rank", "student": "prerank", "on": ["exposed"]},),
        "KuaiRand-Pure (docs/results/joint-training.md)",
    ),
}
"""By what the log holds: candidates that were cut, or exposed ones alone."""
TAUGHT = (
    "a teacher that reads them kept more of the truly best in simulated worlds than levels did: "
    "examples/recipe_taught.yaml (docs/results/selection-bias.md)"
)


VARYING = 0.1
"""From this share of requests of another size than most on, the size tells something."""
SEVERAL = 0.5
"""From this share of requests with several candidates on, candidates are compared."""
KNOWN = 0.3
"""From this share of candidates on whose user, or item, training knows, what it did before is of use."""
OFTEN = 2
"""Exposed candidates of an item or a user, on average, from which on a rate of its own is of use."""
CONTRASTS = {"in_batch", "info_nce", "levels", "cascade"}
"""Losses that set what should survive against other candidates."""


def lacks_size(log: Profile) -> Iterator[Finding]:
    """The number of a request's candidates, where requests differ in size."""
    if any(feature.kind == "candidates" for feature in log.config.declared.features.values()):
        return
    requests, usual = sum(log.sizes.values()), max(log.sizes.values(), default=0)
    if requests - usual >= VARYING * requests > 0:
        lacking = "number of the request's candidates (kind: candidates)"
        sizes = f"{min(log.sizes):,} to {max(log.sizes):,}"
        why = f"requests of 'train' have {sizes} of them, and so should those online"
        yield from _lacks(log, "candidates", lacking, why, {log.free("candidates"): "{kind: candidates}"})


def lacks_rates(log: Profile) -> Iterator[Finding]:
    """Rates of items and of users that are exposed often."""
    schema = log.config.declared
    priors = [name for name, prior in schema.priors().items() if prior.label or prior.events]
    operands = {part for name in priors for part in schema.needs(name)}
    user = {name for name in operands if schema.column(name) == log.config.data.user}
    for what, has in (("item", any(schema.side(n) == "item" for n in operands)), ("user", bool(user))):
        rows = log.column(what).rows
        if has or log.exposed < OFTEN * rows or (what == "user" and log.known(what) < KNOWN):
            continue
        every = "1d" if log.known("item") >= 1 - KNOWN else "1h"
        key, values = log.key_of(what)
        settings = f"{{kind: prior, by: [{quote(key)}], label: {quote(log.label)}, every: {every}}}"
        values |= {log.free(f"{what}_{log.label}_rate"): settings}
        why = f"'train' has {log.exposed:,} exposed candidates of {rows:,} {what}s"
        yield from _lacks(log, "prior", f"rate of '{log.label}' by {what} (kind: prior)", why, values)


def lacks_age(log: Profile) -> Iterator[Finding]:
    """The age of items, where they have a time."""
    schema, items = log.config.declared, log.tables.get("items")
    ages = [feature for feature in schema.derived().values() if feature.kind == "age"]
    if items is None or any(schema.side(name) == "item" for age in ages for name in age.operands):
        return
    for column, kind in items.types.items():
        if column == VALID_FROM or not (kind == pl.Date or isinstance(kind, pl.Datetime)):
            continue
        time = log.free(column)
        named = "" if time == f"features.{column}" else f", column: {quote(column)}"
        age = f"{{kind: age, of: {quote(time.partition('.')[2])}, every: 1h}}"
        values = {time: f"{{side: item, kind: time{named}}}", log.free("item_age"): age}
        why = (
            f"items have the time '{column}', and {1 - log.known('item'):.0%} of the candidates of the last split are "
            f"items that training never saw; use it if '{column}' is when an item appeared"
        )
        yield from _lacks(log, "age", "age of the item (kind: age)", why, values)
        return


def lacks_rank(log: Profile) -> Iterator[Finding]:
    """A number's rank among the request's candidates, where these are several."""
    schema = log.config.declared
    requests, single = sum(log.sizes.values()), log.sizes.get(1, 0)
    if any(f.kind == "within" for f in schema.features.values()) or requests - single < SEVERAL * requests:
        return
    numbers = [n for s in ("cross", "item") for n, f in schema.columns(s).items() if f.kind == "number"]
    if numbers:
        lacking = "number beside those of the request's other candidates (kind: within)"
        why = (
            f"{requests - single:,} of {requests:,} requests of 'train' have several candidates, which differ by "
            f"{name_some(numbers)}; of use if requests online have the candidates that the log has"
        )
        rank = {log.free(f"{numbers[0]}_rank"): f"{{kind: within, of: {quote(numbers[0])}}}"}
        yield from _lacks(log, "within", lacking, why, rank)


def lacks_history(log: Profile) -> Iterator[Finding]:
    """The history of users, where they click often and come back."""
    data, schema = log.config.data, log.config.declared
    ids = [n for n in schema.history_items() if schema.column(n) == data.item and schema.features[n].is_input]
    positives, users = log.train.labels[log.label].positives, log.column("user").rows
    listed = [h for h in schema.histories().values() if not (h.values or h.of_exposures)]
    if listed or not ids or positives < users:
        return
    if log.known("user") >= KNOWN and log.known("item") >= 1 - KNOWN:
        settings, history = (
            f"of: {quote(ids[0])}, event: {quote(log.label)}, last: 50, every: 1d",
            log.free("history"),
        )
        values = {history: f"{{side: user, kind: ids, {settings}}}"}
        if log.again["clicked"] >= OFTEN_AGAIN:
            values |= _looks(log, history.partition(".")[2], ids[0])
        why = (
            f"'train' has {positives:,} candidates with '{log.label}' of {users:,} users, and {log.known('user'):.0%} "
            "of the candidates of the last split are of users among them"
        )
        yield from _lacks(log, "history", "history of the user (kind: ids, of the item's id)", why, values)


def lacks_recurrence(log: Profile) -> Iterator[Finding]:
    """What looks for the candidate in what the user did, where users meet again what they met."""
    schema = log.config.declared
    histories = {n: h for n, h in schema.histories().items() if not h.values}
    looked = {f.operands[0] for f in schema.derived().values() if f.compares}
    for name, share in log.held.items():
        if name not in looked and share >= OFTEN_AGAIN:
            lacking = f"feature that looks for the candidate in '{name}' (kind: count, kind: since)"
            why = f"{share:.0%} of the candidates of 'train' are in it"
            yield from _lacks(log, "recurrence", lacking, why, _looks(log, name, histories[name].of))
    data, shown = log.config.data, log.again["shown"]
    ids = [n for n in schema.history_items() if schema.column(n) == data.item]
    if not any(h.of_exposures for h in histories.values()) and ids and shown >= OFTEN_AGAIN:
        history = log.free("shown")
        values = {history: describe_events("shown", ids[0], log.label)}
        values |= _looks(log, history.partition(".")[2], ids[0])
        lacking = "history of what the user was shown, in which candidates are looked for (kind: count, kind: since)"
        why = f"{shown:.0%} of the candidates of 'train' were shown to their user before"
        yield from _lacks(log, "recurrence", lacking, why, values)


def lacks_position(log: Profile) -> Iterator[Finding]:
    """The place on the page, where a column looks like it."""
    data, table = log.config.data, log.tables["log"]
    if data.position is not None:
        return
    used = _columns_read(log)
    named = [c for c, t in table.types.items() if c.lower() in POSITIONS and c not in used and t.is_integer()]
    for column in named[:1]:
        value = pl.col(column)
        low, high = table.collect(table.frame.select(a=value.min(), b=value.max())).row(0)
        if low is not None and 0 <= low < high:
            why = (
                f"the log has the column '{column}' with {low} to {high}; `click` learns what a place is worth, and "
                "serving leaves it out"
            )
            position = {"data.position": quote(column)}
            yield from _lacks(log, "position", "position on the page (data.position)", why, position)


def lacks_losses_of_cut(log: Profile) -> Iterator[Finding]:
    """The losses of the recipe for what was cut."""
    stages = [stage for stage in log.config.stages if not stage.fitted]
    if not log.cut or not stages:
        return
    main = stages[0].main
    of_config = {"stage": stages[0].name} | ({} if main == "click" else {"label": main})
    cut = {"from": [next(iter(log.cut))]}
    added: list[Mapping[str, Any]] = []
    for loss in RECIPES["levels"].losses:
        if loss["kind"] in _lacking(log):
            named = {"kind": loss["kind"]} | of_config
            further = [*added, named | dict(loss) | of_config | (cut if "from" in loss else {})]
            if log.accepts(_number_losses(log, further)):  # towers with matches take no in_batch
                added = further
    if added:
        kinds = [str(loss["kind"]) for loss in added]
        lacking = f"loss of what was not exposed (kind: {', '.join(kinds)})"
        yield from _lacks(log, kinds[0], lacking, _holds(log), _number_losses(log, added))


def unread_scores(log: Profile) -> Iterator[Finding]:
    """Columns that look like production's scores, where some candidates were cut and nothing reads them."""
    types, used = log.tables["log"].types, _columns_read(log)
    scores = [n for n, kind in types.items() if "score" in n.lower() and kind.is_float() and n not in used]
    if log.cut and scores and not log.config.data.scores:
        said = f"the log has scores that nothing reads ({name_some(scores)}): {TAUGHT}"
        yield Finding("advice", "data.scores", said)


def describe_recipe(log: Profile) -> str:
    """Say which losses fit the log and why, and whether the config has them: a line."""
    cut = bool(log.cut)
    if not cut and len(log.config.stages) < 2:
        return "the log has exposed candidates alone, and the config one stage: clicks are all that fits"
    recipe = RECIPES["levels" if cut else "exposures"]
    holds = _holds(log) if cut else "the log has exposed candidates alone"
    fits = f"{', '.join(recipe.kinds)} beside the clicks did best in {recipe.measured}"
    lacking = _lacking(log)
    has = f"lacks {', '.join(lacking)}" if lacking else "learns from them" if cut else "has it"
    return f"{holds}: {fits}; the config {has}"


def _lacks(log: Profile, kind: str, lacking: str, why: str, values: Mapping[str, str]) -> Iterator[Finding]:
    """Advise to add something, if the config is valid with it.

    Args:
        log: its profile.
        kind: of the feature, loss or setting: a key of GAINS.
        lacking: what the config lacks.
        why: why the log asks for it.
        values: key of the config → value in YAML.
    """
    if log.accepts(values):
        measured = f"elsewhere {gain}" if (gain := GAINS[kind]) else "no figure of its gain yet"
        section = next(iter(values)).partition(".")[0]
        yield Finding("advice", section, f"no {lacking}: {why}; {measured}", paste=values)


def _looks(log: Profile, history: str, item: str) -> dict[str, str]:
    """What looks for a candidate, and for its category, in a history: settings by key."""
    schema, table = log.config.declared, log.tables.get("items")
    declared, categories = schema.histories().get(history), list[str]()
    if table is not None:
        features = schema.columns("item").items()
        ids = {schema.column(n): n for n, f in features if n != item and f.kind in ("id", "ids")}
        ids = {column: n for column, n in ids.items() if column in table.types}
        categories = find_categories(table.collect(table.frame.select(list(ids))), ids)
    lines = recurrence_features(history, item, categories, declared is None or declared.timed)
    return {log.free(name): settings for name, settings in lines.items()}


def _number_losses(log: Profile, losses: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Losses after those of the config: settings by key."""
    lines = [
        yaml.safe_dump(dict(loss), default_flow_style=True, sort_keys=False, width=math.inf)
        for loss in losses
    ]
    return {f"losses.{n}": line.strip() for n, line in enumerate(lines, start=len(log.config.losses))}


def _columns_read(log: Profile) -> set[str]:
    """The log's columns of features, keys, stages' values, labels and scores."""
    data = log.config.data
    outcomes = [label.column for label in data.labels.values()] + [s.column for s in data.scores.values()]
    return {*log.config.declared.column_names(), *identifying_columns(data), *data.columns, *outcomes}


def _holds(log: Profile) -> str:
    levels = log.train.levels
    return f"{sum(log.cut.values()):,} of {sum(levels):,} candidates of 'train' were cut"


def _lacking(log: Profile) -> list[str]:
    """Kinds of losses of the recipe that fits the log, which the config has nothing like."""
    config = log.config
    losses, exposed = config.losses, len(config.data.levels) - 1
    kinds = {loss.kind for loss in losses}
    if not log.cut:
        taught = any(loss.teachers for loss in losses)
        return [] if taught or len(config.stages) < 2 else ["distill"]
    if not any(level < exposed for level in config.total.population()):
        return RECIPES["levels"].kinds
    return ["in_batch"] if "unexposed" in kinds and not kinds & CONTRASTS else []

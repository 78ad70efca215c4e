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
from corank.training.checks.profile import Profile, of_tables

PURE, SIMULATED = "KuaiRand-Pure (docs/results/kuairand.md)", "simulated worlds (docs/results/defaults.md)"
GAINS: dict[str, str | None] = {
    "candidates": None,
    "prior": f"rates and counts of user, video and author added +.0139 to the ranker's AUC, on {PURE}",
    "age": "ages of items added .013 to .015 to the AUC of a logistic regression on rates, on a simulated news site "
    "(LOG.md)",
    "within": "the rank of a price added +.032 to the ranker's AUC and +.072 to the pre-ranker's, on a drawn site of "
    "hotels (docs/results/real-logs.md)",
    "history": f"histories of clicks and long views added +.0021 to the ranker's AUC, on {PURE}",
    "recurrence": "counts and times since of item and category added +.070 to the ranker's AUC and +.065 to the "
    "pre-ranker's, on a drawn log whose users return to items (docs/guides/features.md)",
    "position": None,
    "unexposed": "negatives from what was cut and a softmax over the batch took the joint recall of the truly best "
    "from .2921 to .2990, from .3133 to .3456 and from .3123 to .3697, on the simulated worlds weak, medium and strong "
    "(docs/results/defaults.md)",
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
        "KuaiRand-Pure (docs/results/defaults.md)",
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


@of_tables
def lacks_size(profile: Profile) -> Iterator[Finding]:
    """The number of a request's candidates, where requests differ in size."""
    if any(feature.kind == "candidates" for feature in profile.config.declared.features.values()):
        return
    requests, usual = sum(profile.sizes.values()), max(profile.sizes.values(), default=0)
    if requests - usual >= VARYING * requests > 0:
        yield from _lacks(
            profile,
            "candidates",
            "number of the request's candidates (kind: candidates)",
            f"requests of 'train' have {min(profile.sizes):,} to {max(profile.sizes):,} of them, and so should "
            "those online",
            {profile.free("candidates"): "{kind: candidates}"},
        )


@of_tables
def lacks_rates(profile: Profile) -> Iterator[Finding]:
    """Rates of items and of users that are exposed often."""
    schema = profile.config.declared
    priors = [name for name, prior in schema.priors().items() if prior.label or prior.events]
    operands = {part for name in priors for part in schema.needs(name)}
    user = {name for name in operands if schema.column(name) == profile.config.data.user}
    for what, has in (("item", any(schema.side(n) == "item" for n in operands)), ("user", bool(user))):
        rows = profile.column(what).rows
        if has or profile.exposed < OFTEN * rows or (what == "user" and profile.known(what) < KNOWN):
            continue
        every = "1d" if profile.known("item") >= 1 - KNOWN else "1h"
        key, values = profile.key_of(what)
        settings = f"{{kind: prior, by: [{quote(key)}], label: {quote(profile.label)}, every: {every}}}"
        yield from _lacks(
            profile,
            "prior",
            f"rate of '{profile.label}' by {what} (kind: prior)",
            f"'train' has {profile.exposed:,} exposed candidates of {rows:,} {what}s",
            values | {profile.free(f"{what}_{profile.label}_rate"): settings},
        )


@of_tables
def lacks_age(profile: Profile) -> Iterator[Finding]:
    """The age of items, where they have a time."""
    schema, items = profile.config.declared, profile.tables.get("items")
    ages = [feature for feature in schema.derived().values() if feature.kind == "age"]
    if items is None or any(schema.side(name) == "item" for age in ages for name in age.operands):
        return
    for column, kind in items.types.items():
        if column == VALID_FROM or not (kind == pl.Date or isinstance(kind, pl.Datetime)):
            continue
        time = profile.free(column)
        named = "" if time == f"features.{column}" else f", column: {quote(column)}"
        of = quote(time.partition(".")[2])
        yield from _lacks(
            profile,
            "age",
            "age of the item (kind: age)",
            f"items have the time '{column}', and {1 - profile.known('item'):.0%} of the candidates of the last "
            f"split are items that training never saw; use it if '{column}' is when an item appeared",
            {
                time: f"{{side: item, kind: time{named}}}",
                profile.free("item_age"): f"{{kind: age, of: {of}, every: 1h}}",
            },
        )
        return


@of_tables
def lacks_rank(profile: Profile) -> Iterator[Finding]:
    """A number's rank among the request's candidates, where these are several."""
    schema, kinds = profile.config.declared, {n: f.kind for n, f in profile.config.declared.columns().items()}
    requests, single = sum(profile.sizes.values()), profile.sizes.get(1, 0)
    if any(f.kind == "within" for f in schema.features.values()) or requests - single < SEVERAL * requests:
        return
    numbers = [
        n
        for side in ("cross", "item")
        for n, kind in kinds.items()
        if kind == "number" and schema.side(n) == side
    ]
    if numbers:
        yield from _lacks(
            profile,
            "within",
            "number beside those of the request's other candidates (kind: within)",
            f"{requests - single:,} of {requests:,} requests of 'train' have several candidates, which differ by "
            f"{name_some(numbers)}; of use if requests online have the candidates that the log has",
            {profile.free(f"{numbers[0]}_rank"): f"{{kind: within, of: {quote(numbers[0])}}}"},
        )


@of_tables
def lacks_history(profile: Profile) -> Iterator[Finding]:
    """The history of users, where they click often and come back."""
    data, schema = profile.config.data, profile.config.declared
    ids = [n for n in schema.history_items() if schema.column(n) == data.item and schema.features[n].is_input]
    positives, users = profile.splits["train"].labels[profile.label].positives, profile.column("user").rows
    listed = [h for h in schema.histories().values() if not (h.values or h.of_exposures)]
    if listed or not ids or positives < users:
        return
    if profile.known("user") >= KNOWN and profile.known("item") >= 1 - KNOWN:
        settings = f"of: {quote(ids[0])}, event: {quote(profile.label)}, last: 50, every: 1d"
        history = profile.free("history")
        told = _looks(profile, history.partition(".")[2], ids[0])
        yield from _lacks(
            profile,
            "history",
            "history of the user (kind: ids, of the item's id)",
            f"'train' has {positives:,} candidates with '{profile.label}' of {users:,} users, and "
            f"{profile.known('user'):.0%} of the candidates of the last split are of users among them",
            {history: f"{{side: user, kind: ids, {settings}}}"}
            | (told if profile.again["clicked"] >= OFTEN_AGAIN else {}),
        )


@of_tables
def lacks_recurrence(profile: Profile) -> Iterator[Finding]:
    """What looks for the candidate in what the user did, where users meet again what they met."""
    schema = profile.config.declared
    histories = {n: h for n, h in schema.histories().items() if not h.values}
    looked = {f.operands[0] for f in schema.derived().values() if f.compares}
    for name, share in profile.held.items():
        if name not in looked and share >= OFTEN_AGAIN:
            yield from _lacks(
                profile,
                "recurrence",
                f"feature that looks for the candidate in '{name}' (kind: count, kind: since)",
                f"{share:.0%} of the candidates of 'train' are in it",
                _looks(profile, name, histories[name].of),
            )
    data, shown = profile.config.data, profile.again["shown"]
    ids = [n for n in schema.history_items() if schema.column(n) == data.item]
    if not any(h.of_exposures for h in histories.values()) and ids and shown >= OFTEN_AGAIN:
        history = profile.free("shown")
        name = history.partition(".")[2]
        yield from _lacks(
            profile,
            "recurrence",
            "history of what the user was shown, in which candidates are looked for (kind: count, kind: since)",
            f"{shown:.0%} of the candidates of 'train' were shown to their user before",
            {history: describe_events("shown", ids[0], profile.label)} | _looks(profile, name, ids[0]),
        )


@of_tables
def lacks_position(profile: Profile) -> Iterator[Finding]:
    """The place on the page, where a column looks like it."""
    data, table = profile.config.data, profile.tables["log"]
    if data.position is not None:
        return
    used = {*profile.config.declared.column_names(), *identifying_columns(data), *data.columns}
    used |= {label.column for label in data.labels.values()} | {s.column for s in data.scores.values()}
    named = [c for c, t in table.types.items() if c.lower() in POSITIONS and c not in used and t.is_integer()]
    for column in named[:1]:
        value = pl.col(column)
        low, high = table.collect(table.frame.select(a=value.min(), b=value.max())).row(0)
        if low is not None and 0 <= low < high:
            yield from _lacks(
                profile,
                "position",
                "position on the page (data.position)",
                f"the log has the column '{column}' with {low} to {high}; `click` learns what a place is worth, "
                "and serving leaves it out",
                {"data.position": quote(column)},
            )


@of_tables
def lacks_losses_of_cut(profile: Profile) -> Iterator[Finding]:
    """The losses of the recipe for what was cut."""
    stages = [stage for stage in profile.config.stages if not stage.fitted]
    if not profile.cut or not stages:
        return
    main = stages[0].main
    of_config = {"stage": stages[0].name} | ({} if main == "click" else {"label": main})
    cut = {"from": [next(iter(profile.cut))]}
    added: list[Mapping[str, Any]] = []
    for loss in RECIPES["levels"].losses:
        if loss["kind"] in _lacking(profile):
            named = {"kind": loss["kind"]} | of_config
            further = [*added, named | dict(loss) | of_config | (cut if "from" in loss else {})]
            if profile.accepts(_number_losses(profile, further)):  # towers with matches take no in_batch
                added = further
    if added:
        kinds = [str(loss["kind"]) for loss in added]
        lacking = f"loss of what was not exposed (kind: {', '.join(kinds)})"
        yield from _lacks(profile, kinds[0], lacking, _holds(profile), _number_losses(profile, added))


@of_tables
def unread_scores(profile: Profile) -> Iterator[Finding]:
    """Columns that look like production's scores, where some candidates were cut and nothing reads them."""
    scores = [
        n for n, kind in profile.tables["log"].types.items() if "score" in n.lower() and kind.is_float()
    ]
    if profile.cut and scores and not profile.config.data.scores:
        yield Finding(
            "advice", "data.scores", f"the log has scores that nothing reads ({name_some(scores)}): {TAUGHT}"
        )


def describe_recipe(profile: Profile) -> str:
    """Say which losses fit the log and why, and whether the config has them: a line."""
    cut = bool(profile.cut)
    if not cut and len(profile.config.stages) < 2:
        return "the log has exposed candidates alone, and the config one stage: clicks are all that fits"
    recipe = RECIPES["levels" if cut else "exposures"]
    holds = _holds(profile) if cut else "the log has exposed candidates alone"
    fits = f"{', '.join(recipe.kinds)} beside the clicks did best in {recipe.measured}"
    lacking = _lacking(profile)
    has = f"lacks {', '.join(lacking)}" if lacking else "learns from them" if cut else "has it"
    return f"{holds}: {fits}; the config {has}"


def _lacks(
    profile: Profile, kind: str, lacking: str, why: str, values: Mapping[str, str]
) -> Iterator[Finding]:
    """Advise to add something, if the config is valid with it.

    Args:
        profile: of the log.
        kind: of the feature, loss or setting: a key of GAINS.
        lacking: what the config lacks.
        why: why the log asks for it.
        values: key of the config → value in YAML.
    """
    if profile.accepts(values):
        measured = f"elsewhere {gain}" if (gain := GAINS[kind]) else "no figure of its gain yet"
        section = next(iter(values)).partition(".")[0]
        yield Finding("advice", section, f"no {lacking}: {why}; {measured}", paste=values)


def _looks(profile: Profile, history: str, item: str) -> dict[str, str]:
    """What looks for a candidate, and for its category, in a history: settings by key."""
    schema, table = profile.config.declared, profile.tables.get("items")
    declared, categories = schema.histories().get(history), list[str]()
    if table is not None:
        features = schema.columns("item").items()
        ids = {schema.column(n): n for n, f in features if n != item and f.kind in ("id", "ids")}
        ids = {column: n for column, n in ids.items() if column in table.types}
        categories = find_categories(table.collect(table.frame.select(list(ids))), ids)
    lines = recurrence_features(history, item, categories, declared is None or declared.timed)
    return {profile.free(name): settings for name, settings in lines.items()}


def _number_losses(profile: Profile, losses: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Losses after those of the config: settings by key."""
    lines = [
        yaml.safe_dump(dict(loss), default_flow_style=True, sort_keys=False, width=math.inf)
        for loss in losses
    ]
    return {f"losses.{n}": line.strip() for n, line in enumerate(lines, start=len(profile.config.losses))}


def _holds(profile: Profile) -> str:
    levels = profile.splits["train"].levels
    return f"{sum(profile.cut.values()):,} of {sum(levels):,} candidates of 'train' were cut"


def _lacking(profile: Profile) -> list[str]:
    """Kinds of losses of the recipe that fits the log, which the config has nothing like."""
    config = profile.config
    losses, exposed = config.losses, len(config.data.levels) - 1
    kinds = {loss.kind for loss in losses}
    if not profile.cut:
        taught = any(loss.teachers for loss in losses)
        return [] if taught or len(config.stages) < 2 else ["distill"]
    if not any(level < exposed for level in config.total.population()):
        return RECIPES["levels"].kinds
    return ["in_batch"] if "unexposed" in kinds and not kinds & CONTRASTS else []

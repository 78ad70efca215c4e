"""Features, settings and losses that a log asks for and its config lacks, each with the lines of YAML that add it.

GAINS quotes what they gained on other logs, from docs/results and LOG.md. RECIPES are the losses beside the clicks that
`corank simulate`, importers and examples write; `scripts/bench defaults` measures them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import yaml

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.core.yaml_names import quote
from corank.data.log_summary import identifying_columns
from corank.data.recurrence import OFTEN_AGAIN, describe_events, find_categories, recurrence_features
from corank.data.tables import VALID_FROM, Table
from corank.features.log_schema import POSITIONS, DataSettings
from corank.training.checks.log_counts import FeatureFacts, LogCounts
from corank.training.checks.returns import Returns
from corank.training.config.config import Config
from corank.training.config.config_file import plain
from corank.training.config.yaml_values import change_values

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


def unread_scores(log: Table, data: DataSettings) -> list[str]:
    """The columns of a log that look like production's scores, if `data.scores` names none."""
    if data.scores:
        return []
    return [name for name, kind in log.types.items() if "score" in name.lower() and kind.is_float()]


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


@dataclass(frozen=True)
class Suggestion:
    """Something to add to a config."""

    kind: str
    """Of the feature, loss or setting: a key of GAINS."""
    lacking: str
    """What the config lacks."""
    why: str
    """Why the log asks for it."""
    values: Mapping[str, str]
    """Key of the config → value in YAML, as `--set` takes both."""

    def __str__(self) -> str:
        measured = f"elsewhere {gain}" if (gain := GAINS[self.kind]) else "no figure of its gain yet"
        section = next(iter(self.values)).partition(".")[0]
        names = ["-" if section == "losses" else f"{key.partition('.')[2]}:" for key in self.values]
        added = [f"  {name} {value}" for name, value in zip(names, self.values.values(), strict=True)]
        return "\n".join([f"no {self.lacking}: {self.why}; {measured}; under `{section}`:", *added])

    @property
    def overrides(self) -> list[str]:
        """The same as `--set` takes it."""
        return [f"{key}={value}" for key, value in self.values.items()]


@dataclass(frozen=True)
class Guidance:
    """A config with its log, to find what it lacks."""

    config: Config
    tables: Mapping[str, Table]
    counts: LogCounts
    features: Sequence[FeatureFacts]
    returns: Returns

    @property
    def suggestions(self) -> list[Suggestion]:
        """What to add, at most one of each kind except priors; only what makes a valid config."""
        rules = (
            self._candidates(),
            self._priors(),
            self._ages(),
            self._within(),
            self._histories(),
            self._recurrence(),
            self._positions(),
            self._recipe(),
        )
        return [suggestion for rule in rules for suggestion in rule if self._accepts(suggestion)]

    def _accepts(self, suggestion: Suggestion) -> bool:
        """Whether the config is valid with a suggestion, and some network reads each feature that is an input."""
        try:
            changed = change_values(plain(self.config), suggestion.overrides).value
            config = validate(Config, changed, self.config.name)
        except ConfigError:
            return False
        schema = config.declared
        inputs = (network.input_features(schema).values() for network in config.networks.values())
        read = {name for layers in inputs for layer in layers for name in layer}
        added = {key.partition(".")[2] for key in suggestion.values if key.startswith("features.")}
        return all(name in read for name in added & schema.inputs().keys())

    # What the log holds

    @property
    def _label(self) -> str:
        """The label that the last stage orders by."""
        return self.config.stages[-1].main

    @property
    def _sizes(self) -> Mapping[int, int]:
        """Number of candidates → requests of `train` that have so many."""
        return self.counts.requests["train"].candidates

    def _facts(self, name: str) -> FeatureFacts:
        return next(facts for facts in self.features if facts.name == name)

    def _known(self, name: str) -> float:
        """The share of candidates of the last split whose item, or user, training knows; 1 without another split."""
        familiar = list(self._facts(name).familiar.values())
        return familiar[-1].candidates if familiar else 1.0

    def _exposed(self) -> int:
        return self.counts.splits["train"].labels[self._label].exposed

    # Rules

    def _candidates(self) -> Iterator[Suggestion]:
        if any(feature.kind == "candidates" for feature in self.config.declared.features.values()):
            return
        requests, usual = sum(self._sizes.values()), max(self._sizes.values(), default=0)
        if requests - usual >= VARYING * requests > 0:
            yield Suggestion(
                "candidates",
                "number of the request's candidates (kind: candidates)",
                f"requests of 'train' have {min(self._sizes):,} to {max(self._sizes):,} of them, and so should those "
                "online",
                {self._free("candidates"): "{kind: candidates}"},
            )

    def _priors(self) -> Iterator[Suggestion]:
        schema = self.config.declared
        priors = [name for name, prior in schema.priors().items() if prior.label or prior.events]
        operands = {part for name in priors for part in schema.needs(name)}
        user = {name for name in operands if schema.column(name) == self.config.data.user}
        for what, has in (("item", any(schema.side(n) == "item" for n in operands)), ("user", bool(user))):
            rows, exposed = self._facts(what).rows, self._exposed()
            if has or exposed < OFTEN * rows or (what == "user" and self._known(what) < KNOWN):
                continue
            every = "1d" if self._known("item") >= 1 - KNOWN else "1h"
            key, values = self._key(what)
            settings = f"{{kind: prior, by: [{quote(key)}], label: {quote(self._label)}, every: {every}}}"
            yield Suggestion(
                "prior",
                f"rate of '{self._label}' by {what} (kind: prior)",
                f"'train' has {exposed:,} exposed candidates of {rows:,} {what}s",
                values | {self._free(f"{what}_{self._label}_rate"): settings},
            )

    def _ages(self) -> Iterator[Suggestion]:
        schema, items = self.config.declared, self.tables.get("items")
        aged = {
            name
            for feature in schema.derived().values()
            if feature.kind == "age"
            for name in feature.operands
        }
        if items is None or any(schema.side(name) == "item" for name in aged):
            return
        for column, kind in items.types.items():
            if column == VALID_FROM or not (kind == pl.Date or isinstance(kind, pl.Datetime)):
                continue
            time = self._free(column)
            named = "" if time == f"features.{column}" else f", column: {quote(column)}"
            of = quote(time.partition(".")[2])
            yield Suggestion(
                "age",
                "age of the item (kind: age)",
                f"items have the time '{column}', and {1 - self._known('item'):.0%} of the candidates of the last "
                f"split are items that training never saw; use it if '{column}' is when an item appeared",
                {
                    time: f"{{side: item, kind: time{named}}}",
                    self._free("item_age"): f"{{kind: age, of: {of}, every: 1h}}",
                },
            )
            return

    def _within(self) -> Iterator[Suggestion]:
        schema = self.config.declared
        kinds = {name: feature.kind for name, feature in schema.columns().items()}
        requests, single = sum(self._sizes.values()), self._sizes.get(1, 0)
        if (
            any(f.kind == "within" for f in schema.features.values())
            or requests - single < SEVERAL * requests
        ):
            return
        numbers = [
            n
            for side in ("cross", "item")
            for n, k in kinds.items()
            if k == "number" and schema.side(n) == side
        ]
        if numbers:
            rank = self._free(f"{numbers[0]}_rank")
            yield Suggestion(
                "within",
                "number beside those of the request's other candidates (kind: within)",
                f"{requests - single:,} of {requests:,} requests of 'train' have several candidates, which differ by "
                f"{', '.join(numbers)}; of use if requests online have the candidates that the log has",
                {rank: f"{{kind: within, of: {quote(numbers[0])}}}"},
            )

    def _histories(self) -> Iterator[Suggestion]:
        data, schema = self.config.data, self.config.declared
        ids = [
            n for n in schema.history_items() if schema.column(n) == data.item and schema.features[n].is_input
        ]
        positives, users = self.counts.splits["train"].labels[self._label].positives, self._facts("user").rows
        listed = [h for h in schema.histories().values() if not (h.values or h.of_exposures)]
        if listed or not ids or positives < users:
            return
        if self._known("user") >= KNOWN and self._known("item") >= 1 - KNOWN:
            settings = f"of: {quote(ids[0])}, event: {quote(self._label)}, last: 50, every: 1d"
            history = self._free("history")
            told = self._looks(history.partition(".")[2], ids[0])
            yield Suggestion(
                "history",
                "history of the user (kind: ids, of the item's id)",
                f"'train' has {positives:,} candidates with '{self._label}' of {users:,} users, and "
                f"{self._known('user'):.0%} of the candidates of the last split are of users among them",
                {history: f"{{side: user, kind: ids, {settings}}}"}
                | (told if self.returns.events["clicked"] >= OFTEN_AGAIN else {}),
            )

    def _recurrence(self) -> Iterator[Suggestion]:
        """Look for the candidate in what the user did, where users meet again what they met."""
        schema = self.config.declared
        histories = {n: h for n, h in schema.histories().items() if not h.values}
        looked = {f.operands[0] for f in schema.derived().values() if f.compares}
        for name, share in self.returns.histories.items():
            if name not in looked and share >= OFTEN_AGAIN:
                yield Suggestion(
                    "recurrence",
                    f"feature that looks for the candidate in '{name}' (kind: count, kind: since)",
                    f"{share:.0%} of the candidates of 'train' are in it",
                    self._looks(name, histories[name].of),
                )
        data, shown = self.config.data, self.returns.events["shown"]
        ids = [n for n in schema.history_items() if schema.column(n) == data.item]
        if not any(h.of_exposures for h in histories.values()) and ids and shown >= OFTEN_AGAIN:
            history = self._free("shown")
            name = history.partition(".")[2]
            yield Suggestion(
                "recurrence",
                "history of what the user was shown, in which candidates are looked for (kind: count, kind: since)",
                f"{shown:.0%} of the candidates of 'train' were shown to their user before",
                {history: describe_events("shown", ids[0], self._label)} | self._looks(name, ids[0]),
            )

    def _looks(self, history: str, item: str) -> dict[str, str]:
        """What looks for a candidate, and for its category, in a history: settings by key."""
        schema, table = self.config.declared, self.tables.get("items")
        declared, categories = schema.histories().get(history), list[str]()
        if table is not None:
            features = schema.columns("item").items()
            ids = {schema.column(n): n for n, f in features if n != item and f.kind in ("id", "ids")}
            ids = {column: n for column, n in ids.items() if column in table.types}
            categories = find_categories(table.collect(table.frame.select(list(ids))), ids)
        lines = recurrence_features(history, item, categories, declared is None or declared.timed)
        return {self._free(name): settings for name, settings in lines.items()}

    def _positions(self) -> Iterator[Suggestion]:
        data, log = self.config.data, self.tables["log"]
        if data.position is not None:
            return
        used = {*self.config.declared.column_names(), *identifying_columns(data), *data.columns}
        used |= {label.column for label in data.labels.values()} | {
            score.column for score in data.scores.values()
        }
        named = [
            c for c, t in log.types.items() if c.lower() in POSITIONS and c not in used and t.is_integer()
        ]
        for column in named[:1]:
            value = pl.col(column)
            low, high = log.collect(log.frame.select(a=value.min(), b=value.max())).row(0)
            if low is not None and 0 <= low < high:
                yield Suggestion(
                    "position",
                    "position on the page (data.position)",
                    f"the log has the column '{column}' with {low} to {high}; `click` learns what a place is worth, "
                    "and serving leaves it out",
                    {"data.position": quote(column)},
                )

    def _recipe(self) -> Iterator[Suggestion]:
        stages = [stage for stage in self.config.stages if not stage.fitted]
        if not self._cut or not stages:
            return
        of_config = {"stage": stages[0].name} | (
            {} if stages[0].main == "click" else {"label": stages[0].main}
        )
        cut = {"from": [next(iter(self._cut))]}
        added: list[Mapping[str, Any]] = []
        for loss in RECIPES["levels"].losses:
            if loss["kind"] in self._lacking:
                named = {"kind": loss["kind"]} | of_config
                further = [*added, named | dict(loss) | of_config | (cut if "from" in loss else {})]
                if self._accepts(self._suggest(further)):  # towers with matches take no in_batch
                    added = further
        if added:
            yield self._suggest(added)

    def _suggest(self, losses: Sequence[Mapping[str, Any]]) -> Suggestion:
        """Losses of the recipe for what was cut."""
        number, kinds = len(self.config.losses), [str(loss["kind"]) for loss in losses]
        lines = [
            yaml.safe_dump(dict(loss), default_flow_style=True, sort_keys=False, width=math.inf)
            for loss in losses
        ]
        return Suggestion(
            kinds[0],
            f"loss of what was not exposed (kind: {', '.join(kinds)})",
            self._holds,
            {f"losses.{n}": line.strip() for n, line in enumerate(lines, start=number)},
        )

    @property
    def _cut(self) -> Mapping[str, int]:
        """Level → candidates of `train` that were cut there; none of a log without levels."""
        data = self.config.data
        if data.level is None:
            return {}
        levels = self.counts.splits["train"].levels
        return {name: count for name, count in zip(data.levels[:-1], levels, strict=False) if count}

    @property
    def _holds(self) -> str:
        levels = self.counts.splits["train"].levels
        return f"{sum(self._cut.values()):,} of {sum(levels):,} candidates of 'train' were cut"

    @property
    def _lacking(self) -> list[str]:
        """Kinds of losses of the recipe that fits the log, which the config has nothing like."""
        losses, exposed = self.config.losses, len(self.config.data.levels) - 1
        kinds = {loss.kind for loss in losses}
        if not self._cut:
            taught = any(loss.teachers for loss in losses)
            return [] if taught or len(self.config.stages) < 2 else ["distill"]
        if not any(level < exposed for level in self.config.total.population()):
            return RECIPES["levels"].kinds
        return ["in_batch"] if "unexposed" in kinds and not kinds & CONTRASTS else []

    @property
    def recipe(self) -> str:
        """Which losses fit the log and why, and whether the config has them: a line."""
        cut = bool(self._cut)
        if not cut and len(self.config.stages) < 2:
            return "the log has exposed candidates alone, and the config one stage: clicks are all that fits"
        recipe = RECIPES["levels" if cut else "exposures"]
        holds = self._holds if cut else "the log has exposed candidates alone"
        fits = f"{', '.join(recipe.kinds)} beside the clicks did best in {recipe.measured}"
        has = (
            f"lacks {', '.join(self._lacking)}" if self._lacking else "learns from them" if cut else "has it"
        )
        scores = unread_scores(self.tables["log"], self.config.data) if cut else []
        further = f"; it has scores that nothing reads ({', '.join(scores)}): {TAUGHT}" if scores else ""
        return f"{holds}: {fits}; the config {has}{further}"

    # Names

    def _key(self, what: str) -> tuple[str, dict[str, str]]:
        """Return a feature over the ids of items or users, and what declares it if the config has none."""
        schema, data = self.config.declared, self.config.data
        column = data.item if what == "item" else data.user
        for name, feature in schema.columns().items():
            if schema.column(name) == column and schema.side(name) == what and "key" in feature.uses:
                return name, {}
        key = self._free(column)
        name = key.partition(".")[2]
        named = "" if name == column else f", column: {quote(column)}"
        return name, {key: f"{{side: {what}, kind: id, input: false{named}}}"}

    def _free(self, name: str) -> str:
        """Return the key of a feature that is not there yet, by this name or one like it."""
        name = name.replace(".", "_")
        while name in self.config.features:
            name += "_"
        return f"features.{name}"

"""Advice: what in a log makes learning hard under a config, and what to try."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from corank.core.time import DAY
from corank.training.config import Config
from corank.training.profile.feature_facts import FeatureFacts
from corank.training.profile.log_counts import LogCounts

UNKNOWN = 0.3
"""From this share of unknown ids on, something else must tell candidates apart."""
UNIQUE, FEWEST = 0.9, 100
"""An id with more values than this share of the rows is of no use, if there are so many rows."""
SHIFT = 0.05
"""Missing rates of two splits that differ by more are reported."""
SINGLE = 0.5
"""From this share of requests without order on, metrics by request and list-wise losses are of a few requests."""


@dataclass(frozen=True)
class Advice:
    """A config with the profile of its log."""

    config: Config
    counts: LogCounts
    features: Sequence[FeatureFacts]

    @property
    def lines(self) -> list[str]:
        """All advice, a line each; what costs most first."""
        return [
            *self._unknown_items(),
            *self._unknown_users(),
            *self._unknown_values(),
            *self._useless(),
            *self._shifts(),
            *self._requests(),
        ]

    def _familiar(self, name: str) -> Iterator[tuple[str, float]]:
        """Each split with less than it should know of a feature's values, and the unknown share."""
        facts = next(facts for facts in self.features if facts.name == name)
        for split, known in facts.familiar.items():
            if 1 - known.candidates >= UNKNOWN:
                yield split, 1 - known.candidates

    def _unknown_items(self) -> Iterator[str]:
        for split, share in self._familiar("item"):
            tried = " and ".join(self._for_new_items())
            then = f"add {tried}" if tried else "the item's id tells nothing of them"
            yield f"{share:.0%} of the candidates of '{split}' are items that training never saw: {then}"

    def _for_new_items(self) -> Iterator[str]:
        """Undeclared features that would distinguish new items."""
        schema = self.config.declared
        steps = [p.every for n, p in schema.priors().items() if schema.side(n) in ("item", "cross")]
        if not any(every < DAY for every in steps):
            shortest = min(steps, default=timedelta())
            yield "priors of the item with a short `every`, such as 10m" + (
                f" (the shortest is {shortest // timedelta(hours=1)}h)" if steps else ""
            )
        kinds = {schema.features[n].kind for n in schema.features if schema.side(n) == "item"}
        if "vector" not in kinds:
            yield "vectors of their content (kind: vector)"
        if "time" not in kinds:
            yield "their age, of a column of `items` with the time since which each is there (kind: time, kind: age)"

    def _unknown_users(self) -> Iterator[str]:
        for split, share in self._familiar("user"):
            yield (
                f"{share:.0%} of the candidates of '{split}' are of users that training never saw: their ids tell "
                "nothing; what tells is a history, the context, and priors by other keys"
            )

    def _unknown_values(self) -> Iterator[str]:
        own = {self.config.data.item, self.config.data.user}
        schema = self.config.declared
        for facts in self.features[1:]:
            if facts.name in schema.features and schema.column(facts.name) not in own:
                for split, share in self._familiar(facts.name):
                    yield (
                        f"{facts.name}: {share:.0%} of the candidates of '{split}' have a value that training never "
                        "saw; a coarser column, or its prior, may tell more"
                    )

    def _useless(self) -> Iterator[str]:
        schema, own = self.config.declared, {self.config.data.item, self.config.data.user}
        for facts in self.features:
            if facts.name not in schema.features or schema.column(facts.name) in own:
                continue
            if facts.missing.get("train") == 1:
                yield f"{facts.name}: always missing in the split 'train'; drop the feature or mend the column"
            elif facts.values == 1 and not facts.missing.get("train"):
                yield f"{facts.name}: the same value in all training rows, which tells nothing; drop the feature"
            elif facts.familiar and facts.rows >= FEWEST and (facts.values or 0) > UNIQUE * facts.rows:
                of = {"items": "items", "users": "users", "log": "candidates"}[facts.source]
                yield (
                    f"{facts.name}: {facts.values:,} values of {facts.rows:,} {of}, nearly one each, so that it tells "
                    "little but which one it is; use a coarser column, a higher `min_count`, or drop the feature"
                )

    def _shifts(self) -> Iterator[str]:
        for facts in self.features:
            usual = facts.missing.get("train", 0.0)
            for split, rate in facts.missing.items():
                if abs(rate - usual) > SHIFT:
                    yield (
                        f"{facts.name}: missing in {usual:.0%} of the candidates of 'train', but {rate:.0%} of "
                        f"'{split}'; a model takes the difference for something that it is not"
                    )

    def _requests(self) -> Iterator[str]:
        for label in dict.fromkeys(stage.main for stage in self.config.stages):
            requests = self.counts.requests["train"]
            clicked = sum(count for n, count in requests.positives[label].items() if n)
            if clicked and requests.ordered[label] < (1 - SINGLE) * clicked:
                yield (
                    f"{label}: of {clicked:,} requests of 'train' with a positive only {requests.ordered[label]:,} "
                    "have a negative beside it: metrics by request and list-wise losses are of these alone; compare "
                    "models by AUC and by metrics by user, too"
                )

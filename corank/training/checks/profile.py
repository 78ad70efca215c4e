"""The profile of a log: all that is known of a config and its data when they are judged.

Splits are counted over packed data where they are there, else over the tables; the rest is known of the tables alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import NamedTuple

from corank.batches.sampling import SplitCounts, Targets
from corank.core.reports import Report
from corank.data.packed.dataset import PackedDataset
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.features.scale import Bucket
from corank.losses.base import Loss
from corank.training.checks.findings import Finding
from corank.training.config.config import Config


class Learner(NamedTuple):
    """A label of a stage or teacher, and the losses that train it."""

    stage: str
    label: str
    losses: list[tuple[str, Loss]]
    """By name."""

    @property
    def name(self) -> str:
        """`STAGE.LABEL`."""
        return f"{self.stage}.{self.label}"


class Familiarity(NamedTuple):
    """How much of a split has values that training has seen."""

    candidates: float
    """Share of its candidates that have a value, 0 to 1."""
    positives: float | None
    """Share of the positives of the main label; None if there are none."""


@dataclass(frozen=True)
class ColumnProfile:
    """The values of one column, or the ids of items or users."""

    name: str
    """The feature, or `item`, or `user`."""
    source: Source
    """The table that it is read from."""
    familiar: Mapping[str, Familiarity]
    """By split but `train`, in their order; empty if it is no id."""
    missing: Mapping[str, float]
    """By split: the share of its candidates that lack it, 0 to 1."""
    values: int | None
    """Distinct values of the training rows; None of lists."""
    rows: int
    """Items or users of the training rows; of a column of the log its training candidates."""
    texts: Mapping[str, int] = field(default_factory=dict)
    """Of an id whose values are numbers but for a few texts: these, and the training candidates with each."""


class RequestCounts(NamedTuple):
    """The requests of a split by what they hold."""

    candidates: Mapping[int, int]
    """Number of candidates → requests that have so many."""
    positives: Mapping[str, Mapping[int, int]]
    """Label → number of positives → requests that have so many."""


@dataclass(frozen=True)
class Profile:
    """A config with what is known of its log.

    Example:
        profile = profile_log(config, base)
        judge(profile)
    """

    config: Config
    """With numbers in `train`, see `plan_training`."""
    splits: Mapping[str, SplitCounts]
    continues: bool = False
    """Whether the training begins at the weights of an earlier run."""
    single: Sequence[str] = ()
    """Features with one bucket: their training values are all equal. Those that are made of others once packed."""

    # Known of the log's tables

    tables: Mapping[str, Table] = field(default_factory=dict)
    """By name; empty if they were not read, and then all that follows is."""
    misplaced: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Label → level above the exposed one → ones there, which training ignores."""
    requests: Mapping[str, RequestCounts] = field(default_factory=dict)
    """By split."""
    columns: Sequence[ColumnProfile] = ()
    """The ids of items and users, then the features that are read from a column."""
    outcomes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Column that looks known only after the request → what reads it, and why."""
    hopeless: Sequence[int] = ()
    """Rules of the page that no request of the log has the candidates for."""

    # What is learnt

    @property
    def train(self) -> SplitCounts:
        """The split that trains."""
        return self.splits["train"]

    @cached_property
    def learners(self) -> list[Learner]:
        """Every label of every stage and teacher, in the order of the config."""
        total = self.config.total
        trained = [(name, loss) for name, loss in total.select(None) if loss.weight > 0]
        learners = []
        for stage in [*self.config.stages, *self.config.teachers]:
            for label in stage.labels:
                losses = [
                    (name, loss)
                    for name, loss in trained
                    if stage.name in ([loss.learner] if loss.learner else loss.reads(total.funnel))
                    # a plug-in's loss need not name a label; it may then train any
                    and getattr(loss, "label", label) == label
                ]
                learners.append(Learner(stage.name, label, losses))
        return learners

    @property
    def labels(self) -> list[str]:
        """The labels that something learns."""
        return list(dict.fromkeys(learner.label for learner in self.learners))

    def targets(self, learner: Learner, split: str) -> Targets:
        """Sum the rows from which a label's losses learn."""
        each = [loss.targets(self.splits[split], self.config.total.funnel) for _, loss in learner.losses]
        return Targets(*(sum(column) for column in zip(*each, strict=True))) if each else Targets(0, 0, 0)

    # What the log holds

    @property
    def others(self) -> Iterator[ColumnProfile]:
        """Of the features that are no ids of items or users."""
        schema, own = self.config.declared, {self.config.data.item, self.config.data.user}
        for column in self.columns:
            if column.name in schema.features and schema.column(column.name) not in own:
                yield column

    def column(self, name: str) -> ColumnProfile:
        """The values of a feature, or of `item` or `user`."""
        return next(column for column in self.columns if column.name == name)

    # In words

    def report(self, say: Report) -> None:
        """Report briefly what each label and split holds, and what training knows of other splits, a line each."""
        for split, counts in self.splits.items():
            for name, label in counts.labels.items():
                unknown = label.exposed - label.known
                rows = "rows" if name in counts.by_level else "exposed rows"
                say(
                    f"{split}: {name} has {label.positives:,} positives and {label.negatives:,} negatives; "
                    f"{unknown:,} of {label.exposed:,} {rows} are unknown"
                )
        for split in self.config.data.split_names[1:] if self.columns else ():
            ids = (self.column("item"), self.column("user"))
            known = [
                f"{100 * i.familiar[split].candidates:.1f} % by their {i.name}"
                for i in ids
                if split in i.familiar
            ]
            say(f"{split}: candidates that training knows: {', '.join(known)}")


Judgement = Callable[[Profile], Iterable[Finding]]
"""What makes findings of a profile."""


def of_tables(judgement: Judgement) -> Judgement:
    """A judgement that rests on what is known of the log's tables: where they were not read, it finds nothing."""

    @wraps(judgement)
    def judge(profile: Profile) -> Iterable[Finding]:
        return judgement(profile) if profile.tables else ()

    return judge


def find_single_buckets(packed: PackedDataset) -> list[str]:
    """Find the features that packing could cut into one bucket alone."""
    fitted = packed.encoders.fitted.items()
    return [name for name, encoder in fitted if isinstance(encoder, Bucket) and not len(encoder.edges)]

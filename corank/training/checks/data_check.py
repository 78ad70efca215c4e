"""Whether a config can learn from its data: its findings, for which a training is refused or warned of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from corank.batches.sampling import SplitCounts
from corank.core.errors import DataError
from corank.core.reports import Report
from corank.data.packed.dataset import PackedDataset
from corank.features.scale import Bucket
from corank.training.checks.evidence import Evidence
from corank.training.checks.findings import Finding, first_findings
from corank.training.checks.judgements import judge
from corank.training.checks.log_facts import LogFacts
from corank.training.config.config import Config, plan_training


@dataclass(frozen=True)
class TrainingDataCheck(Evidence):
    """What is known of a config and its data, and what is found in them.

    Example:
        TrainingDataCheck.of(config, packed).require()
    """

    @classmethod
    def of(
        cls,
        config: Config,
        packed: PackedDataset,
        continues: bool = False,
        outcomes: Sequence[Finding] = (),
        log: LogFacts | None = None,
    ) -> Self:
        """Count the splits of packed data that training reads; the rest is as in `Evidence`."""
        splits = {s: SplitCounts.of(packed, s) for s in packed.data.split_names if s != "test"}
        planned, single = plan_training(config, splits["train"].requests), find_single_buckets(packed)
        return cls(planned, splits, continues=continues, single=single, outcomes=outcomes, log=log)

    @cached_property
    def findings(self) -> list[Finding]:
        """Errors, warnings and advice, what counts most first."""
        return judge(self)

    @property
    def faults(self) -> list[Finding]:
        """What cannot be learnt or stopped by, or would be falsely learnt; training is refused for each."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def require(self) -> None:
        """Raise DataError if training could not learn what the config asks for."""
        if self.faults:
            raise DataError("\n".join(map(str, self.faults)))

    def report(self, say: Report) -> None:
        """Report briefly what each label and split holds, a line each."""
        for split, counts in self.splits.items():
            for name, label in counts.labels.items():
                unknown = label.exposed - label.known
                say(
                    f"{split}: {name} has {label.positives:,} positives and {label.negatives:,} negatives; "
                    f"{unknown:,} of {label.exposed:,} exposed rows are unknown"
                )

    def report_findings(self, say: Report) -> None:
        """Report the first findings, a line each, without those that only add to the config."""
        found = [finding for finding in self.findings if not finding.paste]
        shown = first_findings(found)
        for finding in shown:
            say(finding.line)
        if len(found) > len(shown):
            say(f"{len(found) - len(shown):,} more: `corank check CONFIG --all`")


def find_single_buckets(packed: PackedDataset) -> list[str]:
    """Find the features that packing could cut into one bucket alone."""
    fitted = packed.encoders.fitted.items()
    return [name for name, encoder in fitted if isinstance(encoder, Bucket) and not len(encoder.edges)]

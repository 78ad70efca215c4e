"""All judgements of a profile, in the order in which their findings count among those of their severity.

A new finding is a function from a profile to findings, and its name in the list; of a plug-in it is the function alone.
"""

from typing import Any

from corank.core.errors import PluginError
from corank.core.registry import Registry
from corank.training.checks import guidance, learnability, log_quality
from corank.training.checks.findings import Finding, order_findings
from corank.training.checks.profile import Judgement, Profile, of_tables


def _check(what: str, part: Any) -> None:
    if not callable(part):
        raise PluginError(f"{what}: expected a function from a Profile to findings")


JUDGEMENTS = Registry[Judgement](
    "judgement", "corank.judgements", "corank.training.checks.judgements", _check
)
"""By name; those of plug-ins count after ours of their severity."""
for _judgement in (
    # errors, then warnings
    learnability.nothing_to_learn,
    learnability.nothing_to_fit,
    learnability.nothing_to_stop_by,
    learnability.reads_outcomes,
    learnability.few_steps,
    learnability.constant_labels,
    learnability.misplaced_labels,
    learnability.unread_outcomes,
    learnability.untrained_labels,
    learnability.few_to_learn_from,
    learnability.idle_losses,
    learnability.outweighing_losses,
    learnability.leaky_negatives,
    learnability.growing_levels,
    learnability.no_validation,
    learnability.few_to_validate,
    learnability.small_log,
    learnability.single_buckets,
    # advice: what makes learning hard, and what the config lacks; what is measured to cost or gain most first
    of_tables(log_quality.unknown_items),
    of_tables(log_quality.unknown_users),
    of_tables(log_quality.shifting_columns),
    of_tables(log_quality.empty_columns),
    of_tables(log_quality.unordered_requests),
    of_tables(guidance.lacks_losses_of_cut),
    of_tables(guidance.lacks_rates),
    of_tables(guidance.lacks_recurrence),
    of_tables(guidance.lacks_history),
    of_tables(guidance.lacks_rank),
    of_tables(guidance.lacks_age),
    of_tables(guidance.lacks_position),
    of_tables(guidance.lacks_size),
    of_tables(guidance.unread_scores),
    of_tables(log_quality.unknown_values),
    of_tables(log_quality.identifying_columns),
    of_tables(log_quality.constant_columns),
):
    JUDGEMENTS.add(_judgement.__name__, _judgement)


def judge(profile: Profile) -> list[Finding]:
    """All findings on a config and its data, what counts most first."""
    return order_findings(
        finding for judgement in JUDGEMENTS.parts().values() for finding in judgement(profile)
    )

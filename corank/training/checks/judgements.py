"""All findings on a config and its data, in the order in which they count among those of their severity.

A new finding is a function, of `Evidence` or of `LogFacts`, and its name in a list.
"""

from collections.abc import Callable, Iterable, Sequence

from corank.training.checks import guidance, learnability, log_quality
from corank.training.checks.evidence import Evidence
from corank.training.checks.findings import Finding, order_findings
from corank.training.checks.log_facts import LogFacts

OF_COUNTS: Sequence[Callable[[Evidence], Iterable[Finding]]] = (
    learnability.nothing_to_learn,
    learnability.nothing_to_fit,
    learnability.nothing_to_stop_by,
    learnability.reads_outcomes,
    learnability.few_steps,
    learnability.constant_labels,
    learnability.misplaced_labels,
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
)
"""Errors, then warnings."""
OF_LOGS: Sequence[Callable[[LogFacts], Iterable[Finding]]] = (
    log_quality.unknown_items,
    log_quality.unknown_users,
    log_quality.shifting_columns,
    log_quality.empty_columns,
    log_quality.unordered_requests,
    guidance.lacks_losses_of_cut,
    guidance.lacks_rates,
    guidance.lacks_recurrence,
    guidance.lacks_history,
    guidance.lacks_rank,
    guidance.lacks_age,
    guidance.lacks_position,
    guidance.lacks_size,
    guidance.unread_scores,
    log_quality.unknown_values,
    log_quality.identifying_columns,
    log_quality.constant_columns,
)
"""Advice: what makes learning hard, and what the config lacks; what is measured to cost or gain most first."""


def judge(evidence: Evidence) -> list[Finding]:
    """All findings, what counts most first."""
    found = [finding for rule in OF_COUNTS for finding in rule(evidence)]
    if evidence.log is not None:
        found += [finding for rule in OF_LOGS for finding in rule(evidence.log)]
    return order_findings(found)

"""A canary against the live version: rates of what was shown, of users assigned to the one or the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from corank.analysis.comparison import compare_measures
from corank.analysis.margins import Margins
from corank.analysis.score_comparison import code_rows, measure_scores
from corank.analysis.served.sample_ratio import check_share
from corank.analysis.served.sequential import SequentialTest, compare_arms
from corank.analysis.served.served_rows import MODEL, TIME, USER, Exposures, ServedLog, served_score
from corank.core.types import Longs, Mask
from corank.evaluation.measures import Measures
from corank.serving.log.log_format import ROLE, SERVED
from corank.serving.role import CANARY, LIVE

USER_CODE, IS_CANARY = "user_code", "is_canary"


def compare_canary(
    log: ServedLog, exposures: Exposures | None, test: SequentialTest, share: float | None = None
) -> dict[str, Any] | None:
    """Compare the log's last canary with the live version over the time in which it was served.

    Args:
        log: what was answered.
        exposures: what was shown; None for no figures of labels.
        test: of differences over time.
        share: of users that the canary was to have; None if it is not known, and not tested.

    Returns the document, None if the log has no canary. Raises DataError.
    """
    requests = log.requests()
    canaries = requests.filter(pl.col(ROLE) == CANARY)
    if not len(canaries):
        return None
    version = canaries[MODEL][-1]
    own = canaries.filter(pl.col(MODEL) == version)
    during = pl.col(TIME).is_between(own[TIME].min(), own[TIME].max())
    live = requests.filter((pl.col(ROLE) == LIVE) & during)
    arms = pl.concat([own, live]).sort(TIME, SERVED).with_columns((pl.col(ROLE) == CANARY).alias(IS_CANARY))
    arms = arms.with_columns(pl.Series(USER_CODE, code_rows(arms, [USER])))
    versions = live[MODEL].unique(maintain_order=True).to_list()
    both = own.select(USER).drop_nulls().unique().join(live.select(USER).unique(), on=USER, how="semi")
    document: dict[str, Any] = {
        "a": f"canary {version}",
        "b": f"live {', '.join(versions)}",
        "from": str(own[TIME].min()),
        "until": str(own[TIME].max()),
        "requests": {"a": len(own), "b": len(live)},
        "users": {"a": own[USER].n_unique(), "b": live[USER].n_unique()},
        "users_in_both": len(both),
        "share_of_requests": len(own) / (len(own) + len(live)),
    }
    if share is not None:
        document["sample_ratio"] = check_share(_had_canary(arms), share)
    if exposures is None:
        return document | {"sequential": {}, "stages": {}}
    facts = arms.select(SERVED, USER_CODE, IS_CANARY)
    shown = exposures.join(log).join(facts, on=SERVED, how="inner", maintain_order="left")
    counts = {"a": int(shown[IS_CANARY].sum()), "b": int((~shown[IS_CANARY]).sum())}
    document["exposures"] = counts
    document["sequential"] = {
        name: result
        for label in exposures.labels
        for name, result in _rates(arms, shown, label, test).items()
    }
    document["stages"] = {
        stage: measured for stage in log.stages if (measured := _measured(shown, stage, exposures.labels))
    }
    return document


def _had_canary(arms: pl.DataFrame) -> Mask:
    """Whether each user ever had the canary, in the order in which users came; requests without one are left out."""
    users = arms.filter(pl.col(USER) != pl.col(SERVED)).group_by(USER, maintain_order=True)
    had: Mask = users.agg(pl.col(IS_CANARY).any())[IS_CANARY].to_numpy()
    return had


def _rates(
    arms: pl.DataFrame, shown: pl.DataFrame, label: str, test: SequentialTest
) -> dict[str, dict[str, Any]]:
    """A label's rate per exposure, and its count per request."""
    known = shown.filter(pl.col(label).is_not_null())
    summed = known.group_by(SERVED).agg(pl.col(label).cast(pl.Float64).sum().alias("sum"))
    of_requests = arms.join(summed, on=SERVED, how="left", maintain_order="left")
    return {
        f"{label} per exposure": _compare(known, known[label].cast(pl.Float64), test),
        f"{label} per request": _compare(of_requests, of_requests["sum"].fill_null(0.0), test),
    }


def _compare(rows: pl.DataFrame, values: pl.Series, test: SequentialTest) -> dict[str, Any]:
    time: Longs = rows[TIME].dt.timestamp("ms").to_numpy()
    user: Longs = rows[USER_CODE].to_numpy()
    side: Mask = rows[IS_CANARY].to_numpy()
    return compare_arms(time, user, side, values.to_numpy().astype(np.float64), test)


def _measured(shown: pl.DataFrame, stage: str, labels: Sequence[str]) -> dict[str, Any]:
    """Metrics of a stage's scores on what each version had shown, with unpaired intervals over users."""
    comparisons = {}
    for label in labels:
        rows = shown.filter(pl.col(label).is_not_null() & pl.col(served_score(stage)).is_finite())
        sides = rows.filter(IS_CANARY), rows.filter(~pl.col(IS_CANARY))
        if all(map(len, sides)):
            ours, theirs = (_measure(one, stage, label) for one in sides)
            comparisons[label] = compare_measures("exposed", ours, theirs, Margins(), paired=False)
    return {"exposed": comparisons} if comparisons else {}


def _measure(rows: pl.DataFrame, stage: str, label: str) -> Measures:
    return measure_scores(
        rows[served_score(stage)].to_numpy(),
        rows[label].to_numpy(),
        rows[USER_CODE].to_numpy(),
        code_rows(rows, [SERVED]),
    )

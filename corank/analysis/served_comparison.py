"""Versions that served compared by their log: the document of `corank compare-served`.

A canary is compared with the live version by rates of what was shown to users assigned to the one or the other; a
shadow by answers to the same requests, and scores of what was then shown.

Only what the live version had shown has labels, so that figures of labels measure how well the shadow orders and
predicts that, not what it would earn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.analysis.comparison import Margins, compare_measures
from corank.analysis.score_comparison import code_rows, measure_scores
from corank.analysis.sequential import EARLY, NONE, SequentialTest, check_share, compare_arms, compare_pairs
from corank.analysis.served_rows import (
    ITEM,
    MODEL,
    TIME,
    USER,
    Exposures,
    ServedLog,
    collect_rows,
    served_score,
)
from corank.core.errors import DataError
from corank.core.types import Doubles, Longs, Mask, Numbers
from corank.evaluation.measures import Measures
from corank.serving.log.log_format import ROLE, SERVED
from corank.serving.log.settings import CANARY, LIVE

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
    users = rows[USER_CODE].to_numpy()
    return measure_scores(rows, served_score(stage), label, users, code_rows(rows, [SERVED]))


OTHER = "@shadow "
"""Before the names of the shadow's columns."""


def compare_shadow(
    log: ServedLog, shadow: ServedLog, exposures: Exposures | None, test: SequentialTest, top: int
) -> dict[str, Any] | None:
    """Compare the log's last shadow with the live version, on the requests that both ranked.

    Args:
        log: what was answered.
        shadow: what the shadow would have answered.
        exposures: what was shown; None for no figures of labels.
        test: of differences over time.
        top: number of items at the top of an answer that are compared.

    Returns the document, None if both ranked no request. Raises DataError.
    """
    offered, answered = shadow.requests(), log.requests().filter(pl.col(ROLE) == LIVE)
    if not len(offered):
        return None
    version = offered[MODEL][-1]
    pairs = answered.join(offered.filter(pl.col(MODEL) == version), on=SERVED, how="semi")
    if not len(pairs):
        return None
    wanted = pairs.lazy().select(SERVED)
    ours = collect_rows(log.rows.join(wanted, on=SERVED, how="semi"), log.source)
    theirs = collect_rows(shadow.rows.join(wanted, on=SERVED, how="semi"), shadow.source)
    stages = [stage for stage in log.stages if stage in shadow.stages]
    scores = [served_score(stage) for stage in stages]
    named = theirs.select(SERVED, ITEM, pl.col(scores).name.prefix(OTHER))
    both = ours.join(named, on=[SERVED, ITEM], how="inner")
    document: dict[str, Any] = {
        "a": f"shadow {version}",
        "b": f"live {', '.join(pairs[MODEL].unique(maintain_order=True))}",
        "from": str(pairs[TIME].min()),
        "until": str(pairs[TIME].max()),
        "requests": len(pairs),
        "candidates": len(both),
        "agreement": _agreement(_ranked(ours, log.stages), _ranked(theirs, shadow.stages), top),
        "scores": {stage: _differences(both, served_score(stage)) for stage in stages},
        "sequential": {},
        "stages": {},
    }
    if exposures is None:
        return document
    shown = exposures.join(log).join(named, on=[SERVED, ITEM], how="inner", maintain_order="left")
    document["exposures"] = len(shown)
    for stage in stages:
        measured, sequential = _measure_shadow(shown, stage, exposures.labels, test)
        if measured:
            document["stages"][stage] = {"exposed": measured}
        document["sequential"] |= sequential
    return document


def _ranked(rows: pl.DataFrame, stages: Sequence[str]) -> pl.DataFrame:
    """The rank of each candidate in its request: first by the last stage that scored it, then by its score."""
    scores = [served_score(stage) for stage in stages]
    depth = pl.sum_horizontal(pl.col(name).is_finite().fill_null(False).cast(pl.Int64) for name in scores)
    last = pl.coalesce(pl.col(name).fill_nan(None) for name in reversed(scores))
    ordered = rows.select(SERVED, ITEM, depth.alias("depth"), last.alias("score")).filter(pl.col("depth") > 0)
    ordered = ordered.sort("depth", "score", descending=True, maintain_order=True)
    return ordered.select(SERVED, ITEM, pl.int_range(1, pl.len() + 1).over(SERVED).alias("rank"))


def _agreement(ours: pl.DataFrame, theirs: pl.DataFrame, top: int) -> dict[str, Any]:
    """How near the two orders are at the top, over requests."""
    mine, other = ours.filter(pl.col("rank") <= top), theirs.filter(pl.col("rank") <= top)
    sizes = mine.group_by(SERVED).agg(pl.len().alias("size"))
    common = mine.join(other, on=[SERVED, ITEM], how="inner").group_by(SERVED).agg(pl.len().alias("common"))
    shares = sizes.join(common, on=SERVED, how="left").select(pl.col("common").fill_null(0) / pl.col("size"))
    moved = mine.join(theirs, on=[SERVED, ITEM], how="inner", suffix="_other")
    first = mine.filter(pl.col("rank") == 1).join(
        other.filter(pl.col("rank") == 1), on=[SERVED, ITEM], how="inner"
    )
    return {
        "top": top,
        "overlap": _mean(shares.to_series()),
        "same_first": len(first) / max(1, len(sizes)),
        "rank_difference": _mean((moved["rank"] - moved["rank_other"]).abs()),
    }


def _differences(both: pl.DataFrame, score: str) -> dict[str, Any]:
    """How a stage's scores of the same candidates differ: shadow minus live."""
    known = both.filter(pl.col(score).is_finite() & pl.col(OTHER + score).is_finite())
    gap = known[OTHER + score] - known[score]
    absolute = gap.abs()
    correlated = len(known) > 1 and bool(known.select(pl.corr(score, OTHER + score).is_finite()).item())
    return {
        "candidates": len(known),
        "a": _mean(known[OTHER + score]),
        "b": _mean(known[score]),
        "mean": _mean(gap),
        "mean_absolute": _mean(absolute),
        "p99_absolute": float(absolute.quantile(0.99) or 0.0) if len(known) else None,
        "correlation": float(known.select(pl.corr(score, OTHER + score)).item()) if correlated else None,
    }


def _mean(values: pl.Series) -> float | None:
    return float(values.cast(pl.Float64).to_numpy().mean()) if len(values) else None


def _measure_shadow(
    shown: pl.DataFrame, stage: str, labels: Sequence[str], test: SequentialTest
) -> tuple[dict[str, Any], dict[str, Any]]:
    """By label the metrics of both versions on what was shown, paired; and log losses over time."""
    score, measured, sequential = served_score(stage), dict[str, Any](), dict[str, Any]()
    for label in labels:
        rows = shown.filter(
            pl.col(label).is_not_null() & pl.col(score).is_finite() & pl.col(OTHER + score).is_finite()
        )
        if not len(rows):
            continue
        values = [rows[OTHER + score].to_numpy(), rows[score].to_numpy()]
        clicked, user = rows[label].to_numpy(), code_rows(rows, [USER])
        request = code_rows(rows, [SERVED])
        ours, theirs = (measure_scores(rows, one, label, user, request) for one in (OTHER + score, score))
        measured[label] = compare_measures("exposed", ours, theirs, Margins())
        if all(((one >= 0) & (one <= 1)).all() for one in values):
            time: Longs = rows[TIME].dt.timestamp("ms").to_numpy()
            a, b = (_log_loss(one, clicked) for one in values)
            result = compare_pairs(time, user, a, b, test, higher=False)
            sequential[f"{stage}: log loss of {label}"] = result
    return measured, sequential


def _log_loss(probability: Numbers, label: Numbers) -> Doubles:
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return -np.log(np.where(label == 1, p, 1 - p))


INVALID = "not comparable"
"""The verdict if users were not assigned as the canary's share says: those of a and b may differ from the start."""


@dataclass(frozen=True)
class ServedChoice:
    """The compared part of a log."""

    exposures: Sequence[Path] = ()
    """Tables of what was shown."""
    labels: Sequence[str] = ()
    """Their columns of labels; detected if empty."""
    since: int | None = None
    """First moment that counts, ms UTC; None for all."""
    until: int | None = None
    """First moment that counts no more, ms UTC; None for all."""
    top: int = 10
    """Items at the top of an answer by which a shadow is compared."""
    share: float | None = None
    """Of users that the canary was to have; None if it is not tested."""


def compare_versions(source: Path, choice: ServedChoice, test: SequentialTest) -> dict[str, Any]:
    """Compare the last canary and the last shadow of a log with the version that was live meanwhile.

    Args:
        source: the folder that `corank serve --log` wrote.
        choice: the compared part of it.
        test: how differences are tested over time.

    Returns the document of `corank compare-served --json`. Raises DataError.
    """
    log = ServedLog.read(source, choice.since, choice.until)
    if log is None:
        raise DataError(f"{source}: no served requests here; `corank serve --log {source}` writes them")
    exposures = None
    if choice.exposures:
        exposures = Exposures.read(choice.exposures, choice.labels, log.item)
    shadow = ServedLog.read_shadow(source, choice.since, choice.until)
    comparisons: dict[str, dict[str, Any] | None] = {
        "canary": compare_canary(log, exposures, test, choice.share),
        "shadow": None if shadow is None else compare_shadow(log, shadow, exposures, test, choice.top),
    }
    if not any(comparisons.values()):
        raise DataError(
            f"{source}: neither a canary nor a shadow ranked a request of that time; serve with --canary or --shadow"
        )
    for part in comparisons.values():
        if part is not None:
            mismatch = part.get("sample_ratio", {}).get("mismatch", False)
            part["verdict"] = INVALID if mismatch else _conclude(part["sequential"])
    document: dict[str, Any] = {"log": str(source), "alpha": test.alpha, "effect": test.effect}
    if exposures is not None:
        document["exposures"] = _count(log, exposures)
    return document | comparisons


def _count(log: ServedLog, exposures: Exposures) -> dict[str, int]:
    """How many exposures there are, and how many of them are of a request that the log does not have."""
    logged = log.requests().select(SERVED)
    unknown = exposures.rows.select(SERVED).join(logged, on=SERVED, how="anti")
    return {"rows": len(exposures.rows), "unknown": len(unknown)}


def _conclude(sequential: dict[str, dict[str, Any]]) -> str:
    """The verdict of all differences: the worst of those that are shown."""
    verdicts = [result["verdict"] for result in sequential.values()]
    for one in ("worse", "better", NONE):
        if one in verdicts:
            return one
    return EARLY

"""Versions that served compared by their log: the document of `corank compare-served`.

A canary is compared with the live version by rates of what was shown to users assigned to the one or the other; a
shadow by answers to the same requests, and scores of what was then shown.

Only what the live version had shown has labels, so that figures of labels measure how well the shadow orders and
predicts that, not what it would earn.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.analysis.comparison import join_figures
from corank.analysis.score_comparison import code_rows, collect_rows, measure_scores
from corank.core.errors import DataError
from corank.core.types import Doubles, Longs, Mask, Numbers
from corank.evaluation.rows import AGREEMENT, WORDS, place
from corank.evaluation.table import Figure
from corank.funnel.ranking import CANARY, LIVE
from corank_serve.log.log_format import ROLE, SERVED
from corank_serve.log.request_log import SHADOW_FOLDER, describe_open_files
from corank_serve.rollout.sequential import (
    EARLY,
    SequentialTest,
    check_share,
    compare_arms,
    compare_pairs,
)
from corank_serve.rollout.served_rows import (
    DRAWN,
    ITEM,
    MODEL,
    TIME,
    USER,
    Exposures,
    ServedLog,
    served_score,
)

USER_CODE, IS_CANARY = "user_code", "is_canary"


def compare_canary(
    log: ServedLog, exposures: Exposures | None, test: SequentialTest, share: float | None = None
) -> dict[str, Any] | None:
    """Compare the log's last canary with the live version over the time in which it was served.

    Requests whose page was drawn are left out, since they tell nothing of either.

    Args:
        log: what was answered.
        exposures: what was shown; None for no figures of labels.
        test: of differences over time.
        share: of users that the canary was to have; None if it is not known, and not tested.

    Returns facts and `rows`, None if the log has no canary. Raises DataError.
    """
    requests = log.requests().filter(~pl.col(DRAWN))
    canaries = requests.filter(pl.col(ROLE) == CANARY)
    if not len(canaries):
        return None
    version = canaries[MODEL][-1]
    own = canaries.filter(pl.col(MODEL) == version)
    during = pl.col(TIME).is_between(own[TIME].min(), own[TIME].max())
    live = requests.filter((pl.col(ROLE) == LIVE) & during)
    arms = pl.concat([own, live]).sort(TIME, SERVED).with_columns((pl.col(ROLE) == CANARY).alias(IS_CANARY))
    arms = arms.with_columns(pl.Series(USER_CODE, code_rows(arms, [USER])))
    both = own.select(USER).drop_nulls().unique().join(live.select(USER).unique(), on=USER, how="semi")
    document: dict[str, Any] = {
        **_head(f"canary {version}", live, own),
        "requests": {"a": len(own), "b": len(live)},
        "users": {"a": own[USER].n_unique(), "b": live[USER].n_unique()},
        "users_in_both": len(both),
        "share_of_requests": len(own) / (len(own) + len(live)),
    }
    if share is not None:
        document["sample_ratio"] = check_share(_had_canary(arms), share)
    if exposures is None:
        return document | {"rows": []}
    facts = arms.select(SERVED, USER_CODE, IS_CANARY)
    shown = exposures.join(log).join(facts, on=SERVED, how="inner", maintain_order="left")
    sides = shown.filter(IS_CANARY), shown.filter(~pl.col(IS_CANARY))
    document["exposures"] = dict(zip("ab", map(len, sides), strict=True))
    rows = [row for label in exposures.labels for row in _rates(arms, shown, label, test)]
    for stage in log.stages:
        known = [side.filter(pl.col(served_score(stage)).is_finite()) for side in sides]
        ours, theirs = (_measure(one, stage, served_score(stage), exposures.labels) for one in known)
        rows += join_figures(ours, theirs, paired=False)
    return document | {"rows": rows}


def _head(version: str, live: pl.DataFrame, requests: pl.DataFrame) -> dict[str, Any]:
    """The compared version, the live ones, and the time of the requests."""
    return {
        "a": version,
        "b": f"live {', '.join(live[MODEL].unique(maintain_order=True))}",
        "from": str(requests[TIME].min()),
        "until": str(requests[TIME].max()),
    }


def _measure(rows: pl.DataFrame, stage: str, score: str, labels: Sequence[str]) -> list[Figure]:
    """Measure the scores of a stage by each label."""
    user = rows[USER_CODE].to_numpy() if USER_CODE in rows.columns else code_rows(rows, [USER])
    return measure_scores(rows, {stage: score}, labels, user, code_rows(rows, [SERVED]))


def _had_canary(arms: pl.DataFrame) -> Mask:
    """Whether each user ever had the canary, in the order in which users came; requests without one are left out."""
    users = arms.filter(pl.col(USER) != pl.col(SERVED)).group_by(USER, maintain_order=True)
    return users.agg(pl.col(IS_CANARY).any())[IS_CANARY].to_numpy()


def _rates(
    arms: pl.DataFrame, shown: pl.DataFrame, label: str, test: SequentialTest
) -> Iterator[dict[str, Any]]:
    """A label's rate per exposure, and its count per request."""
    known = shown.filter(pl.col(label).is_not_null())
    summed = known.group_by(SERVED).agg(pl.col(label).cast(pl.Float64).sum().alias("sum"))
    of_requests = arms.join(summed, on=SERVED, how="left", maintain_order="left")
    for name, rows, values in (
        (f"{label} per exposure", known, known[label].cast(pl.Float64)),
        (f"{label} per request", of_requests, of_requests["sum"].fill_null(0.0)),
    ):
        codes, side = rows[USER_CODE].to_numpy(), rows[IS_CANARY].to_numpy()
        at = place("", label, "served", "", name)
        yield from (at | row for row in compare_arms(_times(rows), codes, side, values.to_numpy(), test))


def _times(rows: pl.DataFrame) -> Longs:
    """Of each row, ms UTC: (N,)."""
    return rows[TIME].dt.timestamp("ms").to_numpy()


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

    Returns facts and `rows`, None if both ranked no request. Raises DataError.
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
        **_head(f"shadow {version}", pairs, pairs),
        "requests": len(pairs),
        "candidates": len(both),
    }
    rows = [*_agreement(_ranked(ours, log.stages), _ranked(theirs, shadow.stages), top)]
    for stage in stages:
        rows += _differences(both, stage)
    if exposures is None:
        return document | {"rows": rows}
    shown = exposures.join(log).join(named, on=[SERVED, ITEM], how="inner", maintain_order="left")
    for stage in stages:
        sides = OTHER + served_score(stage), served_score(stage)
        known = shown.filter(pl.all_horizontal(pl.col(sides).is_finite()))
        a, b = (_measure(known, stage, side, exposures.labels) for side in sides)
        rows += join_figures(a, b)
        for label in exposures.labels:
            rows += _log_losses(known.filter(pl.col(label).is_not_null()), stage, label, sides, test)
    return document | {"exposures": len(shown), "rows": rows}


def _log_losses(
    rows: pl.DataFrame, stage: str, label: str, sides: Sequence[str], test: SequentialTest
) -> Iterator[dict[str, Any]]:
    """How the log loss of a stage's probabilities differs; nothing of scores that are no probabilities."""
    if not len(rows) or not rows.select(pl.all_horizontal(pl.col(sides).is_between(0, 1)).all()).item():
        return
    a, b = (_log_loss(rows[side].to_numpy(), rows[label].to_numpy()) for side in sides)
    at = place(stage, label, "served", "", f"{stage}: log loss of {label}")
    yield from (at | row for row in compare_pairs(_times(rows), code_rows(rows, [USER]), a, b, test, "lower"))


def _ranked(rows: pl.DataFrame, stages: Sequence[str]) -> pl.DataFrame:
    """The rank of each candidate in its request: first by the last stage that scored it, then by its score."""
    scores = [served_score(stage) for stage in stages]
    depth = pl.sum_horizontal(pl.col(name).is_finite().fill_null(False).cast(pl.Int64) for name in scores)
    last = pl.coalesce(pl.col(name).fill_nan(None) for name in reversed(scores))
    ordered = rows.select(SERVED, ITEM, depth.alias("depth"), last.alias("score")).filter(pl.col("depth") > 0)
    ordered = ordered.sort("depth", "score", descending=True, maintain_order=True)
    return ordered.select(SERVED, ITEM, pl.int_range(1, pl.len() + 1).over(SERVED).alias("rank"))


def _agreement(ours: pl.DataFrame, theirs: pl.DataFrame, top: int) -> Iterator[dict[str, Any]]:
    """How near the two orders are at the top, over requests."""
    mine, other = (one.filter(pl.col("rank") <= top) for one in (ours, theirs))
    sizes = mine.group_by(SERVED).agg(pl.len().alias("size"))
    common = mine.join(other, on=[SERVED, ITEM]).group_by(SERVED).agg(pl.len().alias("common"))
    shares = sizes.join(common, on=SERVED, how="left").select(pl.col("common").fill_null(0) / pl.col("size"))
    moved = mine.join(theirs, on=[SERVED, ITEM], suffix="_other")
    for metric, value in (
        (f"overlap@{top}", _mean(shares.to_series())),
        ("same_first", len(moved.filter(rank=1, rank_other=1)) / max(1, len(sizes))),
        (f"rank_difference@{top}", _mean((moved["rank"] - moved["rank_other"]).abs())),
    ):
        yield place("", "", AGREEMENT, "", metric) | {"value": value, "n": len(sizes)}


def _differences(both: pl.DataFrame, stage: str) -> Iterator[dict[str, Any]]:
    """How a stage's scores of the same candidates differ: shadow minus live."""
    score = served_score(stage)
    known = both.filter(pl.all_horizontal(pl.col(score, OTHER + score).is_finite()))
    a, b = known[OTHER + score], known[score]
    correlation = known.select(pl.corr(score, OTHER + score)).item() if len(known) > 1 else None
    means = {"a": _mean(a), "b": _mean(b), "difference": _mean(a - b)}
    yield place(stage, "", AGREEMENT, "", "score") | means | {"n": len(known)}
    for metric, value in (
        ("mean_absolute", _mean((a - b).abs())),
        ("p99_absolute", (a - b).abs().quantile(0.99)),
        ("correlation", None if correlation is None or not isfinite(correlation) else correlation),
    ):
        yield place(stage, "", AGREEMENT, "", metric) | {"value": value, "n": len(known)}


def _mean(values: pl.Series) -> float | None:
    return float(values.cast(pl.Float64).to_numpy().mean()) if len(values) else None


def _log_loss(probability: Numbers, label: Numbers) -> Doubles:
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return -np.log(np.where(label == 1, p, 1 - p))


INVALID = "not comparable"
"""The verdict if users were not assigned as the canary's share says: those of a and b may differ from the start."""


def compare_versions(
    source: Path,
    test: SequentialTest,
    exposures: Sequence[Path] = (),
    labels: Sequence[str] = (),
    since: int | None = None,
    until: int | None = None,
    top: int = 10,
    share: float | None = None,
) -> dict[str, Any]:
    """Compare the last canary and the last shadow of a log with the version that was live meanwhile.

    Args:
        source: the folder that `corank serve --log` wrote.
        test: how differences are tested over time.
        exposures: tables of what was shown.
        labels: their columns of labels; detected if empty.
        since: first moment that counts, ms UTC; None for all.
        until: first moment that counts no more, ms UTC; None for all.
        top: items at the top of an answer by which a shadow is compared.
        share: of users that the canary was to have; None if it is not tested.

    Returns the document of `corank compare-served --json`. Raises DataError.
    """
    log = ServedLog.read(source, since, until)
    incomplete = describe_open_files(source, source / SHADOW_FOLDER)
    if log is None:
        raise DataError(
            incomplete or f"{source}: no served requests here; `corank serve --log {source}` writes them"
        )
    shown = Exposures.read(exposures, labels, log.item) if exposures else None
    shadow = ServedLog.read(source / SHADOW_FOLDER, since, until)
    comparisons = {
        "canary": compare_canary(log, shown, test, share),
        "shadow": None if shadow is None else compare_shadow(log, shadow, shown, test, top),
    }
    if not any(comparisons.values()):
        nobody = f"{source}: neither a canary nor a shadow ranked a request of that time"
        raise DataError("\n".join(filter(None, [f"{nobody}; serve with --canary or --shadow", incomplete])))
    document: dict[str, Any] = {"rows": [], "log": str(source), "alpha": test.alpha, "effect": test.effect}
    document["incomplete"] = incomplete
    if shown is not None:
        unknown = shown.rows.join(log.requests().select(SERVED), on=SERVED, how="anti")
        document["exposures"] = {"rows": len(shown.rows), "unknown": len(unknown)}
    for role, part in comparisons.items():
        if part is not None:
            rows = part.pop("rows")
            mismatch = part.get("sample_ratio", {}).get("mismatch", False)
            part["verdict"] = INVALID if mismatch else _conclude(rows)
            document["rows"] += ({"run": role, **row} for row in rows)
    return document | comparisons


def _conclude(rows: Sequence[Mapping[str, Any]]) -> str:
    """The verdict of all differences over time: the worst of those that are shown."""
    verdicts = {row["verdict"] for row in rows if row["population"] == "served" and not row["group"]}
    return next((one for one in (WORDS[-1], WORDS[1], WORDS[0]) if one in verdicts), EARLY)

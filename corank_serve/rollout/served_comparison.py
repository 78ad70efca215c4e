"""Two versions that served, compared by their logs: the document of `corank compare-served`.

Where a proxy split the users, rates of what was shown to those of the one and of the other are compared. Where it
mirrored the requests, their X-Request-Id pairs the answers to the same ones.

Of a mirrored pair, only what b had shown has labels, so that figures of labels measure how well a orders and predicts
that, not what it would earn.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
from corank_serve.log.log_format import SERVED, X_REQUEST_ID
from corank_serve.log.request_log import describe_open_files
from corank_serve.rollout.sequential import (
    EARLY,
    SequentialTest,
    check_share,
    compare_arms,
    compare_pairs,
)
from corank_serve.rollout.served_log import (
    DRAWN,
    ITEM,
    MODEL,
    TIME,
    USER,
    Exposures,
    ServedLog,
    served_score,
)

USER_CODE, IS_A = "user_code", "is_a"
Sides = tuple[ServedLog, ServedLog]
"""The logs of a and of b."""


def read_sides(
    a: Path, b: Path | None, versions: Sequence[str], since: int | None, until: int | None
) -> Sides:
    """Read the logs of two services, or the parts of two versions of one log.

    Args:
        a: the folder of a log.
        b: that of another one; None if both versions are in `a`.
        versions: model versions of a and of b; none: all of each log, or the two of one log, the newer first.
        since: first moment that counts, ms UTC; None for all.
        until: first moment that counts no more, ms UTC; None for all.

    Raises DataError.
    """
    one = ServedLog.read(a, since, until)
    other = one if b is None else ServedLog.read(b, since, until)
    if b is None and not versions:
        versions = one.requests()[MODEL].unique(maintain_order=True).to_list()[::-1]
        if len(versions) != 2:
            found = ", ".join(versions) or "none"
            raise DataError(
                f"{a}: expected requests of two versions; found {found}; name two by --version A --version B, or a "
                "second log"
            )
    if versions:
        one, other = one.of_version(versions[0]), other.of_version(versions[1])
    kinds = [side.rows.collect_schema()[ITEM] for side in (one, other)]
    if kinds[0] != kinds[1]:
        raise DataError(f"the item is {kinds[0]} in {a}, and {kinds[1]} in {b or a}")
    return one, other


PAIRED = 0.01
"""Requests are taken to be mirrored if so many of those of the smaller log are in both. A proxy that tries a failed
request again leaves a few."""


def find_pairs(ours: pl.DataFrame, theirs: pl.DataFrame) -> pl.DataFrame:
    """Which requests of b are those of a, by their X-Request-Id: `served_id` of b, `copy` of a.

    An id that a log has twice names nothing.
    """
    once = pl.col(X_REQUEST_ID).is_not_null() & pl.col(X_REQUEST_ID).is_unique()
    copies = ours.filter(once).select(X_REQUEST_ID, copy=SERVED)
    return theirs.filter(once).join(copies, on=X_REQUEST_ID, maintain_order="left").select(SERVED, "copy")


def compare_split(
    sides: Sides, exposures: Exposures | None, test: SequentialTest, share: float | None = None
) -> dict[str, Any]:
    """Compare what users of a and users of b did, over the time in which both were served.

    Requests whose page was drawn are left out, since they tell nothing of either.

    Args:
        sides: the logs.
        exposures: what was shown; None for no figures of labels.
        test: of differences over time.
        share: of users that a was to have; None if it is not known, and not tested.

    Returns facts and `rows`. Raises DataError.
    """
    own, others = (side.requests().filter(~pl.col(DRAWN)) for side in sides)
    first: list[Any] = [one[TIME].min() for one in (own, others)]
    last: list[Any] = [one[TIME].max() for one in (own, others)]
    if None in first or max(first) > min(last):
        raise DataError(
            f"{sides[0].source}: a and b were served at no time both, by {len(own):,} and {len(others):,} requests "
            "whose page was not drawn"
        )
    during = pl.col(TIME).is_between(max(first), min(last))
    own, others = (
        one.filter(during).with_columns(pl.lit(is_a).alias(IS_A))
        for one, is_a in ((own, True), (others, False))
    )
    arms = pl.concat([own, others]).sort(TIME, SERVED)
    arms = arms.with_columns(pl.Series(USER_CODE, code_rows(arms, [USER])))
    both = own.select(USER).unique().join(others.select(USER).unique(), on=USER, how="semi")
    document: dict[str, Any] = {
        **_times_of(arms),
        "requests": {"a": len(own), "b": len(others)},
        "users": {"a": own[USER].n_unique(), "b": others[USER].n_unique()},
        "users_in_both": len(both),
        "share_of_requests": len(own) / len(arms),
    }
    if share is not None:
        document["sample_ratio"] = check_share(_had_a(arms), share)
    if exposures is None:
        return document | {"rows": []}
    facts = arms.select(SERVED, USER_CODE, IS_A)
    shown = pl.concat([exposures.join(side) for side in sides], how="diagonal_relaxed").sort(
        TIME, SERVED, ITEM
    )
    shown = shown.join(facts, on=SERVED, how="inner", maintain_order="left")
    arm = shown.filter(IS_A), shown.filter(~pl.col(IS_A))
    document["exposures"] = dict(zip("ab", map(len, arm), strict=True))
    rows = [row for label in exposures.labels for row in _rates(arms, shown, label, test)]
    for stage in _common_stages(sides):
        known = [side.filter(pl.col(served_score(stage)).is_finite()) for side in arm]
        ours, theirs = (_measure(one, stage, served_score(stage), exposures.labels) for one in known)
        rows += join_figures(ours, theirs, paired=False)
    return document | {"rows": rows}


def _common_stages(sides: Sides) -> list[str]:
    a, b = sides
    return [stage for stage in b.stages if stage in a.stages]


def _times_of(requests: pl.DataFrame) -> dict[str, str]:
    """The time of requests."""
    return {"from": str(requests[TIME].min()), "until": str(requests[TIME].max())}


def _measure(rows: pl.DataFrame, stage: str, score: str, labels: Sequence[str]) -> list[Figure]:
    """Measure the scores of a stage by each label."""
    user = rows[USER_CODE].to_numpy() if USER_CODE in rows.columns else code_rows(rows, [USER])
    return measure_scores(rows, {stage: score}, labels, user, code_rows(rows, [SERVED]))


def _had_a(arms: pl.DataFrame) -> Mask:
    """Whether each user ever had a, in the order in which users came; requests without one are left out."""
    users = arms.filter(pl.col(USER) != pl.col(SERVED)).group_by(USER, maintain_order=True)
    return users.agg(pl.col(IS_A).any())[IS_A].to_numpy()


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
        codes, side = rows[USER_CODE].to_numpy(), rows[IS_A].to_numpy()
        at = place("", label, "served", "", name)
        yield from (at | row for row in compare_arms(_times(rows), codes, side, values.to_numpy(), test))


def _times(rows: pl.DataFrame) -> Longs:
    """Of each row, ms UTC: (N,)."""
    return rows[TIME].dt.timestamp("ms").to_numpy()


OTHER = "@a "
"""Before the names of a's columns."""


def compare_mirrored(
    sides: Sides, pairs: pl.DataFrame, exposures: Exposures | None, test: SequentialTest
) -> dict[str, Any]:
    """Compare the answers of a and b to the same requests.

    Args:
        sides: the logs.
        pairs: as of `find_pairs`.
        exposures: what was shown of b's answers; None for no figures of labels.
        test: of differences over time.

    Returns facts and `rows`. Raises DataError.
    """
    a, b = sides
    of_b = replace(b, rows=b.rows.join(pairs.lazy(), on=SERVED, how="semi"))
    of_a = a.rows.rename({SERVED: "copy"}).join(pairs.lazy(), on="copy")
    ours, theirs = collect_rows(of_b.rows, b.source), collect_rows(of_a, a.source)
    stages = _common_stages(sides)
    named = theirs.select(SERVED, ITEM, pl.col([served_score(stage) for stage in stages]).name.prefix(OTHER))
    both = ours.join(named, on=[SERVED, ITEM], how="inner")
    document: dict[str, Any] = {**_times_of(ours), "requests": len(pairs), "candidates": len(both)}
    rows = [*_agreement(_ranked(ours, b.stages), _ranked(theirs, a.stages))]
    for stage in stages:
        rows += _differences(both, stage)
    if exposures is None:
        return document | {"rows": rows}
    shown = exposures.join(of_b).join(named, on=[SERVED, ITEM], how="inner", maintain_order="left")
    if not len(shown) and len(exposures.join(a)):
        raise DataError(
            f"--exposures: are of answers of {a.source}; of a mirrored pair name the log of what was shown second"
        )
    for stage in stages:
        scores = OTHER + served_score(stage), served_score(stage)
        known = shown.filter(pl.all_horizontal(pl.col(scores).is_finite()))
        one, other = (_measure(known, stage, score, exposures.labels) for score in scores)
        rows += join_figures(one, other)
        for label in exposures.labels:
            rows += _log_losses(known.filter(pl.col(label).is_not_null()), stage, label, scores, test)
    return document | {"exposures": {"b": len(shown)}, "rows": rows}


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


TOP = 10
"""Items at the top of an answer by which a mirrored pair is compared."""


def _agreement(ours: pl.DataFrame, theirs: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """How near the two orders are at the top, over requests."""
    mine, other = (one.filter(pl.col("rank") <= TOP) for one in (ours, theirs))
    sizes = mine.group_by(SERVED).agg(pl.len().alias("size"))
    common = mine.join(other, on=[SERVED, ITEM]).group_by(SERVED).agg(pl.len().alias("common"))
    shares = sizes.join(common, on=SERVED, how="left").select(pl.col("common").fill_null(0) / pl.col("size"))
    moved = mine.join(theirs, on=[SERVED, ITEM], suffix="_other")
    for metric, value in (
        (f"overlap@{TOP}", _mean(shares.to_series())),
        ("same_first", len(moved.filter(rank=1, rank_other=1)) / max(1, len(sizes))),
        (f"rank_difference@{TOP}", _mean((moved["rank"] - moved["rank_other"]).abs())),
    ):
        yield place("", "", AGREEMENT, "", metric) | {"value": value, "n": len(sizes)}


def _differences(both: pl.DataFrame, stage: str) -> Iterator[dict[str, Any]]:
    """How a stage's scores of the same candidates differ: a minus b."""
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
"""The verdict if users were not assigned as the share says: those of a and b may differ from the start."""


def compare_logs(
    a: Path,
    b: Path | None,
    test: SequentialTest,
    exposures: Sequence[Path] = (),
    labels: Sequence[str] = (),
    versions: Sequence[str] = (),
    since: int | None = None,
    until: int | None = None,
    share: float | None = None,
) -> dict[str, Any]:
    """Compare the versions of two logs, or two of one.

    Args:
        a: as of `read_sides`, as are `b`, `versions`, `since` and `until`.
        b: another log, or None.
        test: how differences are tested over time.
        exposures: tables of what was shown.
        labels: their columns of labels; detected if empty.
        versions: of a and of b.
        since: first moment, ms UTC.
        until: first moment after, ms UTC.
        share: of users that a was to have; None if it is not tested.

    Returns the document of `corank compare-served --json`. Raises DataError.
    """
    sides = read_sides(a, b, versions, since, until)
    requests = [side.requests() for side in sides]
    of = {
        side: one[MODEL].unique(maintain_order=True).to_list()
        for side, one in zip("ab", requests, strict=True)
    }
    incomplete = describe_open_files(a, *([] if b is None else [b]))
    for side, one in zip(sides, requests, strict=True):
        if not len(one):
            nobody = f"{side.source}: no requests of that time"
            raise DataError("\n".join(filter(None, [nobody, incomplete])))
    shown = Exposures.read(exposures, labels, sides[1].item) if exposures else None
    pairs = find_pairs(*requests)
    mirrored = len(pairs) >= PAIRED * min(map(len, requests))
    if mirrored and share is not None:
        raise DataError("--share: each request is in both logs, so that no user was assigned to one of them")
    found = (
        compare_mirrored(sides, pairs, shown, test) if mirrored else compare_split(sides, shown, test, share)
    )
    names = (str(a), str(b)) if b is not None else (of["a"][0], of["b"][0])
    counts = None
    if shown is not None:
        known = pl.concat([one.select(SERVED) for one in requests])
        unknown = shown.rows.join(known, on=SERVED, how="anti")
        counts = {"rows": len(shown.rows), "unknown": len(unknown), **found["exposures"]}
    rows = found.pop("rows")
    mismatch = found.get("sample_ratio", {}).get("mismatch", False)
    return {
        "rows": rows,
        "a": names[0],
        "b": names[1],
        "versions": of,
        "how": "mirrored" if mirrored else "split",
        **found,
        "exposures": counts,
        "verdict": INVALID if mismatch else _conclude(rows),
        "alpha": test.alpha,
        "effect": test.effect,
        "incomplete": incomplete,
    }


def _conclude(rows: Sequence[Mapping[str, Any]]) -> str:
    """The verdict of all differences over time: the worst of those that are shown."""
    verdicts = {row["verdict"] for row in rows if row["population"] == "served" and not row["group"]}
    return next((one for one in (WORDS[-1], WORDS[1], WORDS[0]) if one in verdicts), EARLY)

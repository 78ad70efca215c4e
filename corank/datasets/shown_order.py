"""Whether lists of candidates stand in the order in which they were shown, to be learnt as the effect of the position.

Tested by the clicks of the training days: lists of some logs are shuffled, sorted by id, or begin with the clicks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import polars as pl
from pydantic import AfterValidator

from corank.core.errors import DataError
from corank.datasets.clicked_lists import CLICK, ITEM, ClickedLists
from corank.datasets.list_columns import free_name
from corank.features.log_schema import POSITIONS

ROLES = ("auto", "effect", "feature", "none")
LISTS = 20_000
"""Lists that are looked at, at most; the last ones."""
SURE = 5.0
"""Standard errors by which clicked candidates stand elsewhere than drawn ones, at least, for the order to be shown."""
LEAST_RATIO = 1.1
"""How much more often candidates of one end of a list are clicked than those of the other, at least."""
NEARLY_ALL, ENOUGH = 0.95, 20
"""A rule that this share of at least so many lists obey was followed when they were written."""


def _read_role(role: str) -> str:
    if role not in ROLES:
        raise ValueError(f"expected {', '.join(ROLES)}; received {role!r}")
    return role


Role = Annotated[str, AfterValidator(_read_role)]
"""What positions are to become: one of ROLES."""


@dataclass(frozen=True)
class ShownOrder:
    """What a log says of the places where its candidates were shown."""

    role: Literal["effect", "feature", "none"] = "none"
    """What positions become: an effect of training that serving leaves out, a feature, or nothing."""
    name: str = ""
    """The column of positions: of the log, or else a new one, of the index in the list."""
    logged: str | None = None
    """The column of positions that the log has, whatever it becomes: of lists unless requests have one candidate."""
    said: str = ""
    """A line about it; blank if there is nothing to say."""

    @property
    def taken(self) -> set[str]:
        """The columns of the log that are no features."""
        return {self.logged} if self.logged and self.role != "feature" else set()

    @property
    def is_index(self) -> bool:
        """Whether positions are the index in the list."""
        return self.role != "none" and self.logged is None


def find_order(training: ClickedLists, along: Sequence[str], named: Sequence[str], wish: str) -> ShownOrder:
    """Find the positions of candidates: in a logged column, or by their index if clicks depend on it.

    Args:
        training: the impressions of the training days, in the order of time.
        along: the columns with an element a candidate.
        named: those that the user names as features.
        wish: what is to be done with positions; `auto` makes them an effect, and a feature if it is `named`.

    Raises:
        DataError: positions are wished for, and lists are in an order that was not shown.
    """
    training = training.tail(LISTS)
    impressions = training.impressions
    column = _find_column(impressions, along) or _find_single(impressions, training.candidates)
    if wish == "auto" and column in named:
        wish = "feature"
    if wish == "none":
        return ShownOrder(logged=column)
    clear, figure, rule = _measure(_place(training, column))
    where = f"column '{column}'" if column else "the order of the lists"
    if not (column or clear or wish != "auto"):
        return ShownOrder()
    if rule:
        said = f"{where} is not taken as the position shown: {rule}"
        if wish != "auto":
            raise DataError(f"import lists: --position {wish}: {said}; use --position none")
        return ShownOrder(logged=column, said=said)
    role: Literal["effect", "feature"] = "feature" if wish == "feature" else "effect"
    becomes = {
        "feature": "a feature, which requests must hold, too",
        "effect": "a term of training, which serving leaves out (--position feature makes it a feature, --position "
        "none drops it)",
    }[role]
    name = column or free_name("position", dict.fromkeys(impressions.collect_schema(), ""))
    said = f"{where} is taken as the position shown: {figure}; it is {becomes}"
    return ShownOrder(role, name, column, said)


def _find_column(training: pl.LazyFrame, along: Sequence[str]) -> str | None:
    """Find a column of positions: whole numbers, by its name, or because it counts the candidates of a list."""
    types = training.collect_schema()
    whole = [name for name in along if types[name].inner.is_integer()]  # type: ignore[attr-defined]
    for name in sorted(whole, key=lambda name: name.lower() not in POSITIONS):
        values = pl.col(name).cast(pl.List(pl.Int64))
        several = values.list.len() > 1
        least, distinct, counts = (
            training.select(
                values.list.min().min().alias("least"),
                (values.list.n_unique() == values.list.len()).filter(several).mean().alias("distinct"),
                values.list.diff(null_behavior="drop")
                .list.eval((pl.element() == 1).fill_null(False))
                .list.all()
                .filter(several)
                .mean()
                .alias("counts"),
            )
            .collect(engine="streaming")
            .row(0)
        )
        by_name = name.lower() in POSITIONS and (distinct or 0) >= NEARLY_ALL
        if least is not None and least >= 0 and (by_name or (counts or 0) >= NEARLY_ALL):
            return name
    return None


def _find_single(training: pl.LazyFrame, candidates: str) -> str | None:
    """Find a column of positions of requests with a single candidate, by its name."""
    types = training.collect_schema()
    named = [name for name, kind in types.items() if name.lower() in POSITIONS and kind.is_integer()]
    if not named:
        return None
    longest, least = (
        training.select(pl.col(candidates).list.len().max(), pl.col(named[0]).min()).collect().row(0)
    )
    return named[0] if longest == 1 and least is not None and least >= 0 else None


def _place(training: ClickedLists, column: str | None) -> pl.DataFrame:
    """Make a row of each candidate of known label, by list and position, of lists with clicked and other ones."""
    place = pl.col(column) if column else pl.int_ranges(pl.col(training.candidates).list.len())
    rows = training.rows(list=pl.int_range(pl.len()), place=place)
    named = rows.select("list", "place", item=pl.col(ITEM), click=pl.col(CLICK)).drop_nulls()
    mixed = pl.col("click").any().over("list") & ~pl.col("click").all().over("list")
    return named.filter(mixed).sort("list", "place", maintain_order=True).collect()


_RULES = {
    "clicked first": "the clicked candidates stand before all others in {:.0%} of them",
    "clicked last": "the clicked candidates stand behind all others in {:.0%} of them",
    "ascending": "{:.0%} of them are sorted by the candidates' ids",
    "descending": "{:.0%} of them are sorted by the candidates' ids",
}


def _measure(rows: pl.DataFrame) -> tuple[bool, str, str]:
    """Compare the places of the clicked candidates with those of all, list by list.

    Returns whether clicks depend on the position beyond doubt, how in words, and the rule by which lists were written,
    in words, if they are in no order that was shown; blank if not.
    """
    rows = rows.with_columns(((pl.int_range(pl.len()) + 0.5) / pl.len()).over("list").alias("place"))
    place, click, item = pl.col("place"), pl.col("click"), pl.col("item")
    n, k = pl.len(), click.sum()
    lists = rows.group_by("list").agg(
        (place.filter(click).sum() - k * place.mean()).alias("beyond"),
        # of the sum of k places that are drawn from the n
        (k * (n - k) / (n - 1) * place.var(ddof=0)).alias("variance"),
        (place.filter(click).max() < place.filter(~click).min()).alias("clicked first"),
        (place.filter(click).min() > place.filter(~click).max()).alias("clicked last"),
        pl.when(n > 2).then((item == item.sort()).all()).alias("ascending"),
        pl.when(n > 2).then((item == item.sort(descending=True)).all()).alias("descending"),
    )
    shares = lists.select(pl.col(name).mean().fill_null(0.0) for name in _RULES).row(0, named=True)
    followed = [name for name, share in shares.items() if share >= NEARLY_ALL and len(lists) >= ENOUGH]
    z = float(lists["beyond"].sum()) / max(float(lists["variance"].sum()), 1e-9) ** 0.5
    first, last = (
        (float(ones.sum()) + 0.5) / (len(ones) + 1)
        for ones in (rows.filter(place <= 0.25)["click"], rows.filter(place >= 0.75)["click"])
    )
    ratio = max(first / last, last / first)
    often, seldom = ("first", "last") if first >= last else ("last", "first")
    figure = (
        f"in the {often} quarter of a list candidates are clicked {ratio:.1f} times as often as in the {seldom} "
        f"({abs(z):.0f} standard errors from chance, {len(lists):,} lists)"
    )
    rule = _RULES[followed[0]].format(shares[followed[0]]) if followed else ""
    return abs(z) >= SURE and ratio >= LEAST_RATIO, figure if len(lists) else "by its name", rule

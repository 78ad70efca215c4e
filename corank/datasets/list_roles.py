"""Which column of a log of lists is what: the options of `corank import lists`."""

from pathlib import Path
from typing import Literal, Self

import polars as pl
from pydantic import Field

from corank.core.errors import DataError
from corank.datasets.clicked_lists import ClickedLists
from corank.datasets.importer import Importer
from corank.datasets.list_columns import free_name
from corank.datasets.shown_order import Role

IMPRESSION, TIME = "impression", "time"
"""Columns that the import adds: the number of an impression, if none of the log names it or its user; its time."""


class ListRoles(Importer):
    """The columns of a log with a row an impression, or an exposure, and its tables."""

    source_help = "A Parquet or CSV file, or a folder of such files."
    candidates: str = Field(description="Column: the list of candidates, or the one that was exposed.")
    user: str = Field("", description="Column: the user; by default each request is its own.")
    time: str = Field("", description="Column: when; by default the order of rows counts.")
    labels: str = Field(
        "",
        description="Columns of 0 and 1, in lists of one element a candidate if candidates are; with commas.",
    )
    chosen: str = Field(
        "", description="Columns of lists of the items that were clicked and the like; with commas."
    )
    along: str = Field(
        "",
        description="Columns of lists with an element a candidate, such as its price, as features; with commas. By "
        "default all that are always as long as the candidates and do not look as if logged after the click.",
    )
    request: str = Field(
        "", description="Columns that identify a request, with commas; by default a row of lists is one."
    )
    history: str = Field("", description="Column: a list of the items that the user clicked before.")
    history_times: str = Field("", description="Column: the list of the times of these clicks.")
    position: Role = Field(
        "auto",
        description="What the place in the list becomes: effect, learnt in training and left out by serving; feature; "
        "none; auto: an effect if it is logged, or clicks depend on it.",
    )
    items: Path | None = Field(None, description="A Parquet or CSV file with a row an item.")
    item: str = Field(
        "",
        description="Its column of ids; by default that of --candidates if a row is an exposure, else item_id.",
    )
    users: Path | None = Field(
        None, description="A Parquet or CSV file with a row a user; its column of ids is named as the log's."
    )
    nulls: str = Field(
        "",
        description="Texts that stand for nothing in any column, with commas, such as NULL,-. By default they do in "
        "columns of numbers, if they sound like it.",
    )

    def names_of(self, role: Literal["labels", "chosen", "along", "request", "nulls"]) -> list[str]:
        """The columns of a role that several may have, or the texts that stand for nothing."""
        text: str = getattr(self, role)
        return [name.strip() for name in text.split(",") if name.strip()]

    def clicked(self, log: pl.LazyFrame) -> ClickedLists:
        """Impressions by their candidates and the first column that says what was clicked."""
        labels, chosen = self.names_of("labels"), self.names_of("chosen")
        return ClickedLists(log, self.candidates, (labels or chosen)[0], aligned=bool(labels))

    @property
    def ids(self) -> set[str]:
        """The columns that identify, and the times: texts stay texts there."""
        named = [self.candidates, self.user, self.time, self.history, self.history_times]
        return {*named, *self.names_of("chosen"), *self.names_of("request")}

    @property
    def used(self) -> set[str]:
        """The columns that are no features."""
        return {*self.ids, *self.names_of("labels")}

    @property
    def label_names(self) -> dict[str, str]:
        """The labels in the config → their columns: of `is_click` the label is `click`, of others the column's name."""
        members = {name: f"is_{n}" for n, name in enumerate(self.names_of("chosen"))}
        names = dict[str, str]()
        for column in [*self.names_of("labels"), *members]:
            names[free_name(column.removeprefix("is_"), names)] = members.get(column, column)
        return names

    @property
    def label(self) -> str:
        """The first label, by which stages order."""
        return next(iter(self.label_names))

    def of_rows(self, lists: bool) -> Self:
        """With the item's column: that of candidates, if rows are exposures."""
        return self.model_copy(update={"item": self.item or ("item_id" if lists else self.candidates)})

    @property
    def settled(self) -> Self:
        """With the columns that the import adds where the log has none."""
        return self.model_copy(update={"user": self.user or IMPRESSION, "time": self.time or TIME})

    def check(self) -> None:
        """Raise DataError if a column has two roles, or none labels; what identifies a request may be user and time."""
        if not self.names_of("labels") + self.names_of("chosen"):
            raise DataError("import lists: no label; name a column as --labels, or one of lists as --chosen")
        if self.users is not None and not self.user:
            raise DataError("import lists: --users is a table; name the log's column of users as --user")
        if self.history_times and not self.history:
            raise DataError("import lists: --history-times are those of a --history; name its column, too")
        roles = [("--candidates", self.candidates), ("--history", self.history)]
        roles += [("--history-times", self.history_times)]
        several: tuple[Literal["labels", "chosen", "along"], ...] = ("labels", "chosen", "along")
        roles += [(f"--{role}", name) for role in several for name in self.names_of(role)]
        request = [("--request", name) for name in self.names_of("request")]
        for others in ([("--user", self.user), ("--time", self.time)], request):
            taken: dict[str, str] = {}
            for option, name in (*roles, *others):
                if name and name in taken:
                    raise DataError(
                        f"import lists: column '{name}' is named as {taken[name]} and as {option}; name it once"
                    )
                taken[name] = option

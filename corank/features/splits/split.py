"""The key `split` of a config: which of the rules it is shows in its keys."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from corank.features.splits.by_share import ShareSplit, is_share
from corank.features.splits.by_time import RangeSplit, TimeRange, TimeSplit
from corank.features.splits.by_value import ColumnSplit, UserSplit
from corank.features.splits.split_rule import SplitRule

_TAGS: Mapping[type[SplitRule], str] = {
    TimeSplit: "by time",
    RangeSplit: "by range",
    ShareSplit: "by share",
    ColumnSplit: "by column",
    UserSplit: "by user",
}


def _tag(value: Any) -> str:
    """Which rule a value means."""
    if isinstance(value, SplitRule):
        return _TAGS[type(value)]
    if isinstance(value, Mapping):
        if "column" in value:
            return "by column"
        if "by" in value:
            return "by user"
        if "train" in value or any(isinstance(v, TimeRange) or ".." in str(v) for v in value.values()):
            return "by range"
        if any(is_share(part) for part in value.values()):
            return "by share"
    return "by time"


Split = Annotated[
    Annotated[TimeSplit, Tag("by time")]
    | Annotated[RangeSplit, Tag("by range")]
    | Annotated[ShareSplit, Tag("by share")]
    | Annotated[ColumnSplit, Tag("by column")]
    | Annotated[UserSplit, Tag("by user")],
    Discriminator(_tag),
]
"""A settings field of any rule. No tag is a key, so that errors name the keys alone."""

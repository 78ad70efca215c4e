"""The moments that a split by shares means in a config's log."""

from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.core.time import EARLIEST, LATEST
from corank.data.lists.list_log import scan_log
from corank.features.splits.by_share import ShareSplit
from corank.features.splits.by_time import TimeSplit
from corank.training.config import Config

_TIME = "@time"
_REQUEST = "@request"


def with_moments(config: Config, base: Path) -> Config:
    """A config whose `data.split` names moments where it named shares; any other as it is, its log unread.

    Args:
        config: the config.
        base: the folder that its relative paths begin in.

    Raises:
        DataError: the log cannot be read, or its times are too few to split.
    """
    rule = config.data.split
    if not isinstance(rule, ShareSplit):
        return config
    data = config.data.model_copy(update={"split": _find_moments(config, base, rule)})
    return config.model_copy(update={"data": data})


def _find_moments(config: Config, base: Path, rule: ShareSplit) -> TimeSplit:
    """Count the requests of each time, streamed: of a row the key's hash and the time alone are read."""
    data = config.data
    log = scan_log(data, base)
    key = pl.struct(log.key(column).alias(str(n)) for n, column in enumerate(data.request)).hash()
    rows = log.frame.select(key.alias(_REQUEST), log.moment(data.time).alias(_TIME))
    requests = rows.group_by(_REQUEST).agg(pl.col(_TIME).min())
    times = log.collect(requests.drop_nulls(_TIME).group_by(_TIME).len().sort(_TIME))
    if not len(times):
        raise DataError("data.log: the log is empty")
    first, last = times[_TIME][0], times[_TIME][-1]
    if first < EARLIEST or last > LATEST:
        raise DataError(
            f"data.log: column '{data.time}' holds {first if first < EARLIEST else last}, which is no time of the "
            "years 1 to 9999; whole numbers are milliseconds"
        )
    return rule.at(times[_TIME], times["len"])

"""Tools of a shop."""

from corank.core.options import printed
from corank.core.package import Package


@printed("{result:,} requests in {log}")
def count_requests(log: str, column: str = "request_id") -> int:
    """Count the requests of a log.

    Args:
        log: its Parquet files.
        column: names a row's request.
    """
    import polars as pl

    return int(pl.scan_parquet(log).select(pl.col(column).n_unique()).collect().item())


PACKAGE = Package(
    names={"shop_tools": "count_requests"},
    commands={"Shop": {"shop count": "shop_tools.count_requests"}},
    groups={"shop": "Tools of our shop."},
)

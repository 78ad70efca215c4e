"""Which columns a request carries."""

from corank.core.settings import validate
from corank.data.column_sources import RequestColumns
from corank.features.kinds.bucket import BucketFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

SCHEMA = Schema(
    {
        "user": IdFeature(side="user", kind="id", column="user_id"),
        "city": IdFeature(side="user", kind="id"),
        "seen": IdsFeature(side="user", kind="ids", of="item", event="click"),
        "hour": BucketFeature(side="context", kind="bucket"),
        "again": IdFeature(side="context", kind="id", column="hour"),
        "item": IdFeature(side="item", kind="id", column="item_id"),
        "brand": IdFeature(side="item", kind="id"),
        "match": IdFeature(side="cross", kind="id"),
    }
)
DATA = validate(
    DataSettings,
    {
        "log": "log.parquet",
        "request": ["request_id"],
        "user": "user_id",
        "item": "item_id",
        "time": "time",
        "levels": ["exposed"],
        "labels": {"click": {"column": "click"}},
        "columns": ["bid", "price"],
        "split": {"valid": "2026-01-02", "test": "2026-01-03"},
    },
    "x.yaml",
)


def test_each_column_has_one_part() -> None:
    assert RequestColumns.of(SCHEMA, DATA, ["price"]) == RequestColumns(
        user=("city",),
        histories=("seen",),
        context=("hour",),
        cross=("match",),
        values=("bid",),
        item=("brand", "price"),
    )

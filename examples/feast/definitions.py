"""Features of a shop's users and items, as Feast knows them."""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float64, String


def source(name: str) -> FileSource:
    """A Parquet file with the time from which a row holds, and the time at which it was written."""
    return FileSource(
        name=name,
        path=f"{name}.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )


user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)

users = FeatureView(
    name="users",
    entities=[user],
    ttl=timedelta(0),  # for ever
    schema=[
        Field(name="age", dtype=Float64),
        Field(name="gender", dtype=String),
        Field(name="city", dtype=String),
        Field(name="activity", dtype=Float64),
    ],
    source=source("user_rows"),
)
items = FeatureView(
    name="items",
    entities=[item],
    ttl=timedelta(0),
    schema=[
        Field(name="category", dtype=String),
        Field(name="brand", dtype=String),
        Field(name="price", dtype=Float64),
        Field(name="quality", dtype=Float64),
        Field(name="freshness", dtype=Float64),
        Field(name="tags", dtype=Array(String)),
    ],
    source=source("item_rows"),
)

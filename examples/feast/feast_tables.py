"""Features of Feast in corank: offline as tables of a config, online as the columns of a request.

python feast_tables.py REPOSITORY OUT writes OUT/VIEW.parquet of each feature view, with the columns `valid_from` and
`recorded_at`: corank joins them to each request as they were known at its time.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from feast import FeatureStore


def write_tables(repository: Path, out: Path) -> list[Path]:
    """Write the table of each feature view, a row of its source a row."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for view in FeatureStore(str(repository)).list_feature_views():
        source, keys = view.batch_source, list(view.entity_columns)
        times = {source.timestamp_field: "valid_from", source.created_timestamp_column: "recorded_at"}
        columns = [*(key.name for key in keys), *(field.name for field in view.features)]
        rows = pd.read_parquet(repository / source.path)[[*columns, *filter(None, times)]]
        path = out / f"{view.name}.parquet"
        rows.rename(columns=times).to_parquet(path, index=False)
        written.append(path)
    return written


def with_user(store: FeatureStore, request: Mapping[str, Any], view: str = "users") -> dict[str, Any]:
    """A request with the online features of its user; null where the store lacks one.

    `request` has the user's `id`, and columns that Feast does not have, such as a history.
    """
    features = [f"{view}:{field.name}" for field in store.get_feature_view(view).features]
    (key,) = store.get_feature_view(view).join_keys
    found = store.get_online_features(features, [{key: request["user"]["id"]}]).to_dict()
    columns = {name: value for name, (value,) in found.items() if name != key}
    return {**request, "user": {**request["user"], **columns}}


if __name__ == "__main__":
    for path in write_tables(*map(Path, sys.argv[1:])):
        print(path)

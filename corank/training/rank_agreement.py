"""Ranks that are to train one model must have the same config and the same packed data."""

from typing import Any

import torch

from corank.core.errors import ConfigError
from corank.core.formatting import name_differences
from corank.core.version import corank_version
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.training.config.config import Config
from corank.training.config.config_file import flatten, plain
from corank.training.device import device


def require_agreement(ranks: Ranks, config: Config, packed: PackedDataset) -> None:
    """Compare this rank's config, packed data and versions with the first rank's.

    Raises ConfigError, which names the rank and what differs.
    """
    ours = _facts(config, packed)
    first = ranks.share(ours, "config and data of the first rank")
    differing = sorted(key for key in ours.keys() | first.keys() if ours.get(key) != first.get(key))
    if differing:
        named = name_differences({k: f"{ours.get(k)!r}, on rank 0 {first.get(k)!r}" for k in differing})
        raise ConfigError(
            f"the ranks would train different models ({named}); start all with the same command, config, "
            "packed data and versions"
        )


def _facts(config: Config, packed: PackedDataset) -> dict[str, Any]:
    requests = {split: sum(s.requests for s in shards) for split, shards in packed.manifest.splits.items()}
    return {
        "version of corank": corank_version(),
        "version of torch": torch.__version__,
        "kind of device": device().type,
        "vocabularies of the packed data": packed.codes,
        **{f"packed requests of {split}": number for split, number in requests.items()},
        **flatten(plain(config)),
    }

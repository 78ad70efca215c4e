"""What `corank --version` prints."""

from corank.bundle.manifest import BundleManifest
from corank.core.artifact import Manifest
from corank.core.version import corank_commit, corank_version
from corank.data.packed.manifest import PackManifest
from corank.training.checkpoints.manifest import CheckpointManifest
from corank.training.run_publisher import RunManifest

FORMATS: dict[str, type[Manifest]] = {
    "packed data": PackManifest,
    "checkpoint": CheckpointManifest,
    "run in object storage": RunManifest,
    "bundle": BundleManifest,
}
"""By the name that users read: the manifest of what corank writes with a number."""


def describe_version() -> str:
    """The version, the commit, and the number of each format that is written and read."""
    formats = ", ".join(f"{name} {kind.written_format()}" for name, kind in FORMATS.items())
    return f"corank {corank_version()}\ncommit {corank_commit()}\nformats: {formats}"

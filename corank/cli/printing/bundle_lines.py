"""What the commands that write a bundle say of it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corank.bundle.manifest import BundleManifest
    from corank.core.storage.object_url import PathOrUrl


def describe_bundle(bundle: "PathOrUrl", manifest: "BundleManifest") -> list[str]:
    """Describe a bundle, a line each: its versions, and until when its priors know the log."""
    from corank.core.time import NEVER, format_time

    lines = [f"bundle: {bundle}  model {manifest.model_version}  items {manifest.items_seq}"]
    times: dict[int, list[str]] = {}
    for name, cut in manifest.priors.items():
        times.setdefault(cut, []).append(name)
    for cut, names in sorted(times.items()):
        known = "nothing" if cut == NEVER else f"the log until {format_time(cut)}"
        lines.append(f"priors that know {known}: {', '.join(names)}")
    if any(feature.as_history for feature in manifest.features.values()):
        lines.append("histories are not in the bundle: requests carry them, or a store of users has them")
    return lines

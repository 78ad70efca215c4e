"""Description of a bundle, for the commands that write one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corank.api.results.bundle_results import BundleResult
    from corank.bundle.manifest import BundleManifest


def describe_bundle(found: "BundleResult") -> list[str]:
    """Describe a bundle, a line each: its versions, until when its priors know the log, and its retrieval."""
    from corank.bundle.retrieval import RetrievalFacts
    from corank.core.time import NEVER, format_time

    manifest, facts = found.bundle.manifest, RetrievalFacts.read(found.bundle.folder)
    lines = [f"bundle: {found['bundle']}  model {manifest.model_version}  items {manifest.items_seq}"]
    lines += describe_stages(manifest)
    times: dict[int, list[str]] = {}
    for name, cut in manifest.priors.items():
        times.setdefault(cut, []).append(name)
    for cut, names in sorted(times.items()):
        known = "nothing" if cut == NEVER else f"the log until {format_time(cut)}"
        lines.append(f"priors that know {known}: {', '.join(names)}")
    if any(feature.as_history for feature in manifest.features.values()):
        lines.append("histories are not in the bundle: requests carry them, or a store of users has them")
    if manifest.precision_loss is not None:
        lines += manifest.precision_loss.lines(manifest.stages)
    return lines if facts is None else [*lines, str(facts)]


def describe_stages(manifest: "BundleManifest") -> list[str]:
    """Describe what is run for the candidates of each stage, a line each."""
    lines = []
    for stage in manifest.stages:
        parts = ", ".join(f"{name} ({width} numbers)" for name, width in stage.item_parts.items())
        if stage.scorer == "parts":
            lines.append(f"{stage.name}: one graph over item parts: {parts}")
        elif parts:
            lines.append(f"{stage.name}: scorer '{stage.scorer}' over item parts: {parts}")
        else:
            lines.append(
                f"{stage.name}: the whole network for every candidate (scorer '{stage.scorer}'), since its stage model "
                "keeps nothing of items: `dcn` and `trees` read them whole, `ahead: false` says so, a plug-in has no "
                "graph `value`"
            )
        if f"{stage.name}.value.onnx" not in manifest.parts:
            lines[-1] += "; it has no graph of its value, so that readers in other languages cannot run it"
    return lines

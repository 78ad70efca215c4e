"""Growth of vocabularies from one packing to the next."""

from collections.abc import Mapping

from corank.core.hash_index import Keys
from corank.core.types import Report
from corank.data.pack_manifest import GrownRows
from corank.data.state.earlier_pack import EarlierPack
from corank.features.counts.growth import max_rows_of
from corank.features.encoders import Encoders
from corank.features.vocabulary import Vocabulary


def find_grown(earlier: EarlierPack, encoders: Encoders) -> Mapping[str, GrownRows]:
    """Count the values that vocabularies admitted and evicted, by feature whose vocabulary continued.

    Args:
        earlier: the packing before.
        encoders: of the new one.
    """
    counts = {}
    carried = earlier.find_carried(encoders.schema)
    for name, encoder in encoders.fitted.items():
        before = earlier.encoders.fitted.get(name)
        if name not in carried or not isinstance(encoder, Vocabulary) or not isinstance(before, Vocabulary):
            continue
        kept = 0
        if len(before.values) and len(encoder.values):
            kept = int((Keys(before.values.sort()).find(encoder.values) >= 0).sum())
        most = max_rows_of(encoders.schema.features[name])
        counts[name] = GrownRows(
            admitted=len(encoder.values) - kept,
            evicted=len(before.values) - kept,
            free=None if most is None else most - len(encoder.values),
        )
    return counts


def report_grown(report: Report, earlier: EarlierPack, encoders: Encoders) -> Mapping[str, GrownRows]:
    """Report how vocabularies grew and shrank, and which features are new. Returns the counts."""
    counts = find_grown(earlier, encoders)
    for name, grown in counts.items():
        free = "" if grown.free is None else f", {grown.free:,} free"
        report(f"{name}: {grown.admitted:,} rows admitted, {grown.evicted:,} evicted{free}")
    carried = earlier.find_carried(encoders.schema)
    learnt = encoders.fitted.keys() | encoders.schema.priors().keys()
    fresh = [name for name in encoders.schema.features if name in learnt - carried]
    if fresh:
        report(f"begin anew, as {earlier.location} has no such features: {', '.join(fresh)}")
    return counts

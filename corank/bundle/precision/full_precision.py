"""The fp32 copy of a content that is being written: the reference for measuring its precision loss."""

from collections.abc import Callable, Mapping
from pathlib import Path

from corank.bundle.bundle import Bundle
from corank.bundle.checks.part_names import MOST_PARTS
from corank.bundle.item_parts import part_file, save_parts, store_parts
from corank.bundle.manifest import BundleManifest
from corank.bundle.precision.precision_loss import PrecisionLoss
from corank.core.storage.hard_links import link_file
from corank.core.storage.untrusted_files import list_files
from corank.core.types import Floats

MeasureLoss = Callable[[Bundle, Bundle], PrecisionLoss]
"""Compares a bundle in fp32 with the same bundle as it is stored. Raises ConfigError if the loss is beyond a bound."""


def write_full_precision(
    folder: Path, content: Path, manifest: BundleManifest, parts: Mapping[str, Floats]
) -> Bundle:
    """Write the content of a bundle with its item parts in fp32 into a folder; what does not differ is linked.

    Args:
        folder: of the new content.
        content: the content, without retrieval yet.
        manifest: of the content.
        parts: (N, d) by `STAGE.PART`.
    """
    own = {part_file(content, part).stem for part in parts}
    for part in list_files(content, MOST_PARTS):
        stem = Path(part).name.removesuffix(".npy").removesuffix(".scale")
        if not (part.startswith("items/") and stem in own):
            link_file(content / part, folder / part)
    stages = [stage.model_copy(update={"precision": {}}) for stage in manifest.stages]
    save_parts(folder, store_parts(parts, stages))
    return Bundle(folder, manifest.model_copy(update={"stages": stages}))

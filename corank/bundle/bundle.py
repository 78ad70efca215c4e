"""The bundle: the artifact that is shipped, a model with its encoders, item records and item parts.

BUNDLE/manifest.json                     BundleManifest
BUNDLE/<model_version>-<items_seq>-<tag>/
    encoders/  tables/  items/  priors/  and a stage's graphs:
    <stage>.value.onnx, <stage>.item.onnx, <stage>.query.onnx
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from corank.bundle.manifest import BundleManifest, load_manifest, require_signature, signed_content
from corank.bundle.signatures import SigningKeys, TrustedKeys
from corank.core.artifact import Artifact, ArtifactWriter, Proofs, prove
from corank.core.artifact_cache import open_artifact, writable_copy
from corank.core.errors import BundleError
from corank.core.objects import Location


class Bundle(Artifact[BundleManifest]):
    """A bundle whose files have been verified.

    Example:
        bundle = Bundle.open(Path("bundle"))
        bundle.manifest.model_version
    """

    @classmethod
    def open(cls, location: Location, trust: TrustedKeys | None = None, proofs: Proofs | None = None) -> Self:
        """Open a bundle; one in object storage is copied first.

        Args:
            location: its folder, or its URL.
            trust: keys, one of which must have signed it; None if it need not be signed.
            proofs: of contents that were verified, whose files are not read again; this one's is added.

        Raises:
            BundleError: the manifest or a file is absent, truncated or altered.
            TrustError: no trusted key signed it.
            StorageError: the object store refuses, or there is none.
        """
        verify = require_signature(trust, str(location))
        return cls.of(open_artifact(location, BundleManifest, verify, proofs=proofs))

    @classmethod
    def of(cls, artifact: Artifact[BundleManifest]) -> Self:
        """Make the bundle of an artifact."""
        return cls(artifact.folder, artifact.manifest)


def is_proven(path: Path, proofs: Proofs) -> bool:
    """Whether a bundle's content is such as it was when it was verified."""
    manifest = find_manifest(path)
    with suppress(OSError):
        return manifest is not None and prove(path / manifest.content, manifest) in proofs
    return False


def find_manifest(location: Location) -> BundleManifest | None:
    """Read the manifest of a bundle; None if there is no sound one. Raises StorageError."""
    with suppress(BundleError):
        return load_manifest(location)
    return None


def next_items_seq(path: Path, model_version: str) -> int:
    """Return the `items_seq` to write next: 1 for a new model version, otherwise one more than the bundle has."""
    before = find_manifest(path)
    return before.items_seq + 1 if before is not None and before.model_version == model_version else 1


def write_content(
    writer: ArtifactWriter[BundleManifest],
    manifest: BundleManifest,
    fill: Callable[[Path], BundleManifest | None],
    sign: SigningKeys | None = None,
) -> Bundle:
    """Replace the content of a bundle.

    Args:
        writer: of the bundle's folder.
        manifest: of the bundle; `content`, `files`, `digest` and `signatures` are filled in here.
        fill: writes the files into a new content folder; may return the manifest, completed from them.
        sign: keys that sign it.

    Raises:
        BundleError: the disk refuses, or the bundle is another than when it was locked; it is left as it is.
    """

    def seal(whole: BundleManifest) -> BundleManifest:
        signatures = [] if sign is None else sign.sign(signed_content(whole.plain()))
        return whole.model_copy(update={"signatures": signatures})

    content = f"{manifest.model_version}-{manifest.items_seq}-{os.urandom(4).hex()}"
    return Bundle.of(writer.write(content, lambda folder: fill(folder) or manifest, seal))


def replace_bundle(location: Location, write: Callable[[Path], Bundle], reads: bool) -> Bundle:
    """Replace a bundle by what a function writes.

    Args:
        location: the bundle's folder, or its URL.
        write: writes a bundle into a folder, which holds the present one if `reads`, otherwise its manifest alone.
        reads: whether it reads the present bundle.

    Raises BusyError, StorageError, and what the function raises; the bundle is left as it is then.
    """
    with writable_copy(location, BundleManifest, reads) as folder:
        bundle = write(folder)
    return bundle if isinstance(location, Path) else Bundle.open(location)

"""An address that Funnel.open takes: `shelf:FOLDER`, a folder of bundles."""

from pathlib import Path

from corank.bundle.bundle import Bundle
from corank.bundle.signatures import TrustedKeys
from corank.core.errors import BundleError
from corank.funnel.funnel import SOURCES, Funnel


@SOURCES.register("shelf")
def open_newest(address: str, trust: TrustedKeys | None, cache: Path | None) -> Funnel | None:
    """Open the bundle whose name is last in a folder of bundles, `shelf:FOLDER`."""
    if not address.startswith("shelf:"):
        return None
    folder = Path(address.removeprefix("shelf:"))
    if not (bundles := sorted(folder.glob("*"))):
        raise BundleError(f"{address}: {folder} holds no bundle; export one into it")
    return Funnel(Bundle.open(bundles[-1], trust=trust))

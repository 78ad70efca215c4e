"""The result of `report`."""

import json
from dataclasses import dataclass, field
from html import escape

from corank.core.storage.object_url import Location


@dataclass(frozen=True)
class ReportPage:
    """A page that was written: self-contained HTML.

    Example:
        >>> page = corank.report("shop/runs/shop", "report.html")
        >>> page.location, "<svg" in page.html
        (PosixPath('report.html'), True)
    """

    location: Location
    """The file, or its URL."""

    html: str = field(repr=False)
    """The page's text."""

    def to_json(self) -> str:
        """Where the page lies, as JSON text."""
        return json.dumps({"page": str(self.location)}, indent=1)

    def __str__(self) -> str:
        return str(self.location)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its styles stay there."""
        return f'<iframe srcdoc="{escape(self.html)}" width="100%" height="800" style="border: 0"></iframe>'

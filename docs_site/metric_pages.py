"""Table of the metrics of a service, below the page on watching it, from what defines them."""

from collections.abc import Iterator

from corank_serve.http.prometheus import list_metrics
from docs_site.pages import Page, escape, table

PATH = "operations/watch.md"


def metric_pages() -> Iterator[Page]:
    """The section that ends the page on watching a service."""
    rows = [
        (f"`{name}{'{' * bool(labels)}{', '.join(labels)}{'}' * bool(labels)}`", kind, escape(text))
        for name, kind, text, labels in list_metrics()
    ]
    head = "# Watch\n\n## Metrics of a service\n\n"
    yield Page(PATH, "Watch", f"{head}{table(('metric', 'type', 'what'), rows)}\n")

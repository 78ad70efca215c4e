"""What is wrong with a rendered site: links that lead nowhere, and anything that is loaded from another host."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

LOADED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("use", "href"),
}
"""Tags and attributes by which a page loads something."""
UNLOADED = {"canonical", "alternate", "next", "prev", "author", "license"}
"""Relations of `link` that load nothing."""


class RenderedPage(HTMLParser):
    """The ids, links and loads of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.mermaid = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag refers to."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        self.mermaid |= "mermaid" in given.get("class", "").split()
        for name, value in given.items():
            if (tag, name) in LOADED and given.get("rel") not in UNLOADED:
                self.loads.append(value)
            elif tag == "a" and name == "href":
                self.links.append(value)


def find_faults(site: Path) -> list[str]:
    """Say, a line each, what is wrong with the pages and stylesheets of a site."""
    pages = {path: RenderedPage(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    faults = [f"{path.relative_to(site)}: {fault}" for path in pages for fault in _faults(path, pages)]
    for sheet in sorted(site.rglob("*.css")):
        text = sheet.read_text(encoding="utf-8")
        faults += [
            f"{sheet.relative_to(site)}: loads {url}"
            for url in re.findall(r"(?:url\(|@import )\W?(https?:[^\s)'\"]+|//[^\s)'\"]+)", text)
        ]
    return faults


def _faults(path: Path, pages: dict[Path, RenderedPage]) -> Iterator[str]:
    page = pages[path]
    if page.mermaid:
        yield "a Mermaid diagram, which is drawn by a script of another host; use an SVG"
    for url in page.loads:
        if re.match(r"[a-z]+:|//", url) and not url.startswith("data:"):
            yield f"loads {url}"
    if path.name == "404.html":  # its links are absolute
        return
    for url in [*page.loads, *page.links]:
        if re.match(r"[a-z]+:|//", url) or not url:
            continue
        file, _, anchor = unquote(url).partition("#")
        target = (path.parent / file.partition("?")[0]).resolve() if file else path
        if not target.is_file():
            yield f"link to {url}, which does not exist"
        elif anchor and not anchor.startswith("__") and target in pages and anchor not in pages[target].ids:
            yield f"link to {url}, where there is no such heading"

"""The site once it is rendered: its search in Chinese, and what is wrong with it."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

WORDS = {
    "Search": "搜索",
    "Search results": "搜索结果",
    "Close search": "关闭搜索",
    "result": "条结果",
    "results": "条结果",
    "No results": "没有结果",
    "Loading search\\u2026": "正在载入…",
    "Filters": "筛选",
    "Tags": "标签",
}
"""The words of the search window, as they stand in Zensical's script: it is English whatever the page is."""
UNLOADED = {"canonical", "alternate", "next", "prev", "author", "license"}
"""Relations of `link` that load nothing."""


def translate_search(site: Path) -> None:
    """Split Chinese sentences into words when searching, and let the window speak Chinese on Chinese pages.

    Raises ValueError if the files of the site are not those of the Zensical that this was written for.
    """
    for name in ("search.js", "search.json"):
        _replace(site / name, r'"lang":\["en"\]', '"lang":["en","zh"]')
    (script,) = (site / "assets" / "javascripts").glob("bundle.*.min.js")
    for english, chinese in WORDS.items():
        word = f'"{english}"'
        choice = f'(document.documentElement.lang==="zh"?"{chinese}":{word})'
        _replace(script, rf"(?<=[:=?]){re.escape(word)}", choice)


def _replace(file: Path, pattern: str, new: str) -> None:
    text, found = re.subn(pattern, lambda _: new, file.read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"{file.name}: expected {pattern}")
    file.write_text(text, encoding="utf-8")


class RenderedPage(HTMLParser):
    """What a page refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.mermaid = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag refers to."""
        given = {name: value or "" for name, value in attrs}
        self.mermaid |= "mermaid" in given.get("class", "").split()
        urls = self.links if tag == "a" or given.get("rel") in UNLOADED else self.loads
        urls += [given[name] for name in ("href", "src") if name in given]


def find_faults(site: Path) -> Iterator[str]:
    """Say what is wrong with a site: files that are not there, and anything that is loaded from another host.

    Zensical itself checks the links and anchors of Markdown.
    """
    for path in sorted(site.rglob("*.html")):
        page, name = RenderedPage(path), path.relative_to(site)
        if page.mermaid:
            yield f"{name}: a Mermaid diagram, which is drawn by a script of another host; use an SVG"
        yield from (f"{name}: loads {url}" for url in page.loads if re.match(r"(?!data:)[a-z]+:|//", url))
        for url in [*page.loads, *page.links] if path.name != "404.html" else []:  # whose links are absolute
            file = unquote(re.split("[?#]", url)[0])
            if not re.match(r"[a-z]+:|//", url) and not (path.parent / file).exists():
                yield f"{name}: link to {url}, which does not exist"
    for sheet in sorted(site.rglob("*.css")):
        text = sheet.read_text(encoding="utf-8")
        urls = re.findall(r"(?:url\(|@import )\W?((?:https?:)?//[^\s)'\"]+)", text)
        yield from (f"{sheet.relative_to(site)}: loads {url}" for url in urls)

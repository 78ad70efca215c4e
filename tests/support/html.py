"""A strict reader of HTML pages."""

import re
from html.parser import HTMLParser

VOID = {"meta", "path", "use", "rect", "image", "br"}


class Read(HTMLParser):
    """The tags and the text of a document; raises where tags are not closed in turn."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        """Values of attributes, and of url() in styles, from which a browser would load something."""
        self.text = ""
        self.open: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "srcset", "action", "poster"):
                self.fetched.append(value or "")
            self.fetched += re.findall(r"url\(\s*['\"]?([^)'\"]*)", value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            assert "@import" not in data
            self.fetched += re.findall(r"url\(([^)]*)", data)
        else:
            self.text += data

    @property
    def foreign(self) -> list[str]:
        """References fetched from outside the document."""
        return [value for value in self.fetched if not value.startswith(("#", "data:"))]

"""Pages of files outside docs/ that pages link to, so that the site is complete without the repository."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from posixpath import normpath

from docs_site.docstrings import first_line
from docs_site.pages import ROOT, Page, relative, table

LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", "": "bash"}
LONGEST = 100_000
"""Characters of a file that has a page of its own."""
LINK = re.compile(r'(\]\(|src=")(?![a-z+]+:|#)([^)#\s"]+)(?=[)#"])')


def rewrite(path: str, text: str, place: Callable[[str], str | None]) -> str:
    """Change the targets of a page's relative links.

    Args:
        path: of the page, from the root of the repository.
        text: the page.
        place: the new place, within docs/, of a path from the root of the repository; None to leave a link alone.
    """

    def replace(link: re.Match[str]) -> str:
        found = place(normpath(PurePosixPath(path).parent / link[2]))
        return link[0] if found is None else link[1] + found

    return LINK.sub(replace, text)


class SourcePages:
    """The pages of linked files, made as links ask for them."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def place(self, page: str, target: str) -> str | None:
        """The link from a page to a path of the repository; None if it does not exist.

        Args:
            page: within docs/.
            target: from the root of the repository.
        """
        if target.startswith("docs/"):  # a notebook is a page
            return relative(page, re.sub(r"\.ipynb$", ".md", target.removeprefix("docs/")))
        path = ROOT / target
        if not path.exists():
            return None
        source = f"source/{target}{'/README' * path.is_dir()}.md"
        written = f"project/{target}" if path.suffix == ".md" else source
        return relative(page, self._places.setdefault(target, written))

    def pages(self) -> Iterator[Page]:
        """The pages that were asked for, and those that they ask for."""
        done = set[str]()
        while left := self._places.keys() - done:
            for target in sorted(left):
                done.add(target)
                yield self._page(target, self._places[target])

    def _page(self, target: str, place: str) -> Page:
        path = ROOT / target
        if path.suffix == ".md":
            text = rewrite(target, path.read_text(encoding="utf-8"), partial(self.place, place))
            return Page(place, target, text)
        if path.is_dir():
            files = (file for file in sorted(path.iterdir()) if file.stem != "__init__")
            rows = [(f"`{file.name}`", _about(file)) for file in files if file.suffix in LANGUAGES]
            body = table(("file", "what it is"), rows)
        else:
            text = path.read_text(encoding="utf-8")
            body = f"~~~~{LANGUAGES.get(path.suffix, 'text')}\n{text}\n~~~~"
            if len(text) > LONGEST:
                body = f"{len(text):,} characters; read it in the repository."
        # not in the search: a word of a source is seldom what a reader looks for
        return Page(place, target, f"---\nsearch:\n  exclude: true\n---\n\n# {target}\n\n{body}\n")


def _about(file: Path) -> str:
    if file.suffix != ".py":
        return "folder" if file.is_dir() else ""
    return first_line(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))))

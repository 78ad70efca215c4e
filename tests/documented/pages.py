"""Pages of the documentation as the tests run them: blocks of code, and the directives beside them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from supply_chain.lock import ROOT

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
COMMENT = re.compile(r"<!-- (page|block):(.*?)-->", re.DOTALL)
FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
REMARK = re.compile(r"(^|\s+)# .*$", re.MULTILINE)
PAGE_KEYS = {"extras", "prepare", "replace"}
BLOCK_KEYS = {
    *(
        "not run",
        "instead",
        "status",
        "before",
        "prepare",
        "replace",
        "file",
        "ready",
        "until",
        "shows",
        "unordered",
    )
}


class DirectiveError(Exception):
    """A directive that says nothing the harness knows."""


@dataclass(frozen=True)
class Block:
    """A block of code."""

    line: int
    """Of the page, from 1."""
    language: str
    code: str
    says: Mapping[str, Any] = field(default_factory=dict)
    """Its directive."""

    @property
    def is_run(self) -> bool:
        """Whether its language is one that is run."""
        return self.language in ("sh", "python")

    @property
    def file(self) -> str | None:
        """The file that the block is written to."""
        named = FILE.match(self.code)
        return self.says.get("file") or (named[1] if named else None)

    @property
    def essence(self) -> str:
        """The code without remarks, which may be in another language."""
        return "\n".join(line.rstrip() for line in REMARK.sub("", self.code).splitlines() if line.strip())


@dataclass(frozen=True)
class Page:
    """A page."""

    name: str
    """Relative to the root of the repository."""
    blocks: list[Block]
    says: Mapping[str, Any]
    """Its directive."""

    @classmethod
    def read(cls, name: str) -> "Page":
        """Read a page of the repository. Raises DirectiveError."""
        return cls.parse(name, (ROOT / name).read_text(encoding="utf-8"))

    @classmethod
    def parse(cls, name: str, text: str) -> "Page":
        """Read the text of a page. Raises DirectiveError."""
        says: dict[str, Any] = {}
        for match in COMMENT.finditer(text):
            if match[1] == "page":
                says |= _read(match, f"{name}:{_line(text, match)}", PAGE_KEYS)
        return cls(name, [*_blocks(name, text)], says)

    @property
    def run(self) -> list[Block]:
        """The blocks of the languages that are run."""
        return [block for block in self.blocks if block.is_run]

    @property
    def extras(self) -> list[str] | None:
        """The extras to install; None leaves corank itself out."""
        named = self.says.get("extras", ["train"])
        return None if named == "none" else named

    @property
    def installs(self) -> bool:
        """Whether the page itself installs."""
        return any(
            re.search(r"\bpip install\b", block.code) for block in self.run if "not run" not in block.says
        )

    def english(self) -> "Page | None":
        """The page that a Chinese page translates."""
        return Page.read(self.name.replace(".zh-CN", "")) if ".zh-CN" in self.name else None


def _blocks(name: str, text: str) -> Iterator[Block]:
    """Read the blocks of a page, each with the directive before it."""
    end = 0
    for match in FENCE.finditer(text):
        before = [*COMMENT.finditer(text, end, match.start())]
        where = f"{name}:{_line(text, match)}"
        says: dict[str, Any] = {}
        for comment in before:
            if comment[1] == "block":
                if text[comment.end() : match.start()].strip():
                    raise DirectiveError(f"{where}: put the directive directly before its block")
                says = _read(comment, where, BLOCK_KEYS)
        if match["language"] in ("", "bash", "shell", "py"):
            raise DirectiveError(
                f"{where}: name the language of the block; commands are sh, Python is python"
            )
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        yield Block(_line(text, match), match["language"], code, says)
        end = match.end()


def _read(match: re.Match[str], where: str, known: set[str]) -> dict[str, Any]:
    try:
        says = yaml.safe_load(match[2])
    except yaml.YAMLError as error:
        raise DirectiveError(f"{where}: the directive is no YAML: {error}") from error
    if not isinstance(says, dict) or not says.keys() <= known:
        raise DirectiveError(
            f"{where}: a directive has the keys {', '.join(sorted(known))}; received {says!r}"
        )
    if ("not run" in says) != ("instead" in says):
        raise DirectiveError(f"{where}: `not run: REASON` needs `instead: WHAT`, and the reverse")
    for path in re.findall(r"\btests/[\w/.-]*\w", str(says.get("instead", ""))):
        if not (ROOT / path).exists():
            raise DirectiveError(f"{where}: `instead` names {path}, which does not exist")
    return says


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1

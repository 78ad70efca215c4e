"""Tables of docs/results, written from a run's document: `scripts/bench NAME [ARGS] --page`, or `--page FILE`.

A table of a page stands between two comments. The first says in YAML what is shown, the second holds the hash of the
benchmark's code, by which a test finds tables that are older than their benchmark:

    <!-- table:
    benchmark: cascade_losses
    args: --keep FOLDER             # of the command, for messages
    key: "{row}.{column}"           # of a cell's figure
    head: losses                    # above the rows
    rows: {icc: ICC, "arf*": }      # a glob takes all keys that fit, and its * is the row's name
    columns: {joint: recall, lcron-joint: [difference, "+.3f"]}
    intervals: false                # true unless given
    plot: [recall]
    -->

    | losses | recall | difference |
    …

    AMD EPYC, 2 cores, torch 2.13, 2026-11-26.

    <!-- /table: 0123456789ab -->

A row and a column have words, or words and a format; a row's format comes first. Intervals (`.low`, `.high`) are shown
beside their figure, bold where the format has a sign and the interval excludes 0. A row or a column without any figure
is an error, a cell without one is empty.
"""

import ast
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from docs_site.pages import ROOT

RESULTS = ROOT / "docs" / "results"
TABLE = re.compile(r"<!-- table:\n(?P<says>.*?)-->\n(?P<shown>.*?)<!-- /table: (?P<code>\S+) -->", re.DOTALL)
KEYS = {"benchmark", "args", "key", "head", "rows", "columns", "intervals", "plot"}
SHARED = ("benchmarks/harness.py", "benchmarks/__init__.py")
"""What all benchmarks have, and no figure depends on."""


class PageError(Exception):
    """A table that cannot be written."""


# What a benchmark computes


def code_of(name: str) -> str:
    """The hash of a benchmark's code, and of the modules of benchmarks/ that it imports.

    Imports, docstrings, comments and spaces do not count.
    """
    path = next(ROOT.glob(f"benchmarks/*/{name}.py")).relative_to(ROOT).as_posix()
    return hash_code(path, lambda path: (ROOT / path).read_text("utf-8") if (ROOT / path).is_file() else None)


def hash_code(path: str, read: Callable[[str], str | None]) -> str:
    """The hash of a module and of what it imports.

    Args:
        path: of the module, such as `benchmarks/speed/vectors.py`.
        read: gives the text of a path, None if there is no such file.
    """
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop()
        source = read(path)
        if source is None or path in found or path in SHARED:
            continue
        tree = ast.parse(source)
        found[path] = _substance(source, tree)
        waiting += _imported(tree)
    return hashlib.sha256("\n".join(sorted(found.values())).encode()).hexdigest()[:12]


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "benchmarks":
            for module in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                yield f"{module}.".replace(".", "/")[:-1] + ".py"


def _substance(source: str, tree: ast.Module) -> str:
    dropped = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = (line for n, line in enumerate(source.splitlines(), 1) if n not in dropped)
    return "".join("".join(line.split()) for line in lines if not line.lstrip().startswith("#"))


# Tables


@dataclass(frozen=True)
class ResultTable:
    """A table of a page."""

    says: Mapping[str, Any]
    shown: str
    code: str
    """The hash of the code that measured it."""

    @property
    def command(self) -> str:
        """What renews the table."""
        args = str(self.says.get("args", ""))
        return " ".join(["scripts/bench", self.says["benchmark"], *args.split(), "--page"])

    def render(self, document: Mapping[str, Any]) -> str:
        """The table of a document, and the line of its machine. Raises PageError if figures are missing."""
        figures, key = document["figures"], self.says.get("key", "{row}")
        rows, columns = [*self._rows(figures)], _worded(self.says["columns"])
        by_row = {row: [figures.get(_key(key, row, column)) for column, *_ in columns] for row, *_ in rows}
        for row, values in by_row.items():
            if all(value is None for value in values):
                raise PageError(f"no figure of the row {row}")
        for n, (column, *_) in enumerate(columns):
            if all(values[n] is None for values in by_row.values()):
                raise PageError(f"no figure of the column {column}")
        ends = ("low", "high") if self.says.get("intervals", True) else ()
        lines = [[self.says["head"], *(words for _, words, _ in columns)]]
        for row, words, form in rows:
            keys = [(_key(key, row, column), form or own) for column, _, own in columns]
            lines.append([words, *(_cell(figures, of, how, ends) for of, how in keys)])
        plot = f"<!-- plot: {'; '.join(self.says['plot'])} -->\n" if "plot" in self.says else ""
        head, *body = ("| " + " | ".join(line) + " |\n" for line in lines)
        table = head + "|---" * (1 + len(columns)) + "|\n" + "".join(body)
        return f"\n{plot}{table}\n{document['machine']}, {document.get('date', 'undated')}.\n\n"

    def _rows(self, figures: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        """Key, words and format of each row."""
        key = self.says.get("key", "{row}")
        for pattern, words, form in _worded(self.says["rows"]):
            if "*" not in pattern:
                yield pattern, words, form
                continue
            before, _, after = (re.escape(part) for part in pattern.partition("*"))
            names: dict[str, str] = {}
            for column, *_ in _worded(self.says["columns"]):
                ends = (re.escape(part) for part in _key(key, "\0", column).split("\0"))
                expression = re.compile(f"({before}(.+?){after})".join(ends))
                names |= {found[1]: found[2] for found in map(expression.fullmatch, figures) if found}
            yield from ((row, f"`{name}`", form) for row, name in names.items())


def _worded(says: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key, words and format."""
    pairs = ((str(key), value if isinstance(value, list) else [value, ""]) for key, value in says.items())
    return [(key, str(words or key), form) for key, (words, form) in pairs]


def _key(key: str, row: str, column: str) -> str:
    """The key of a cell's figure; a column may have `{row}` in it, too."""
    return key.format(row=row, column=column.format(row=row))


def _cell(figures: Mapping[str, Any], key: str, form: str, bounds: tuple[str, ...]) -> str:
    if key not in figures:
        return ""
    names = (key, *(f"{key}.{bound}" for bound in bounds))
    value, *ends = (figures[name] for name in names if name in figures)
    text = _number(value, form)
    if len(ends) == 2:
        text += f" [{', '.join(_number(end, form) for end in ends)}]"
        if form.startswith("+") and (ends[0] > 0 or ends[1] < 0):
            return f"**{text}**"
    return text


def _number(value: Any, form: str) -> str:
    """A figure without a zero before its point."""
    if isinstance(value, str):
        return value
    text = format(value, form or ("," if isinstance(value, int) else ".3f"))
    return re.sub(r"^([+-]?)0\.", r"\1.", text).replace("-", "−")


def read_tables(text: str) -> Iterator[ResultTable]:
    """The tables of a page. Raises PageError if one says what is not known."""
    for found in TABLE.finditer(text):
        says = yaml.safe_load(found["says"])
        if unknown := says.keys() - KEYS:
            raise PageError(f"a table has the keys {', '.join(sorted(KEYS))}; received {', '.join(unknown)}")
        yield ResultTable(says, found["shown"], found["code"])


def write_tables(text: str, document: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A page with the tables of a document written anew, and why others of that benchmark were left."""
    left: list[str] = []

    def renew(found: re.Match[str]) -> str:
        (table,) = read_tables(found[0])
        if table.says["benchmark"] != document["name"]:
            return found[0]
        try:
            shown = table.render(document)
        except PageError as error:
            left.append(f"{table.command}: {error}")
            return found[0]
        code = document.get("code", "unknown")
        return f"<!-- table:\n{found['says']}-->\n{shown}<!-- /table: {code} -->"

    return TABLE.sub(renew, text), left


def main() -> None:
    name, file = sys.argv[1:]
    document = json.loads(Path(file).read_text(encoding="utf-8"))
    if document["name"] != name:
        sys.exit(f"scripts/bench: {file} is of {document['name']}, not of {name}")
    filled, reasons = 0, list[str]()
    for page in sorted(RESULTS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        renewed, left = write_tables(text, document)
        reasons += [f"{page.name}: left as it is: {reason}" for reason in left]
        filled += sum(table.says["benchmark"] == name for table in read_tables(text)) - len(left)
        if renewed != text:
            page.write_text(renewed, encoding="utf-8")
            print(page)
    print(*reasons, sep="\n", file=sys.stderr)
    if not filled:
        sys.exit(f"scripts/bench: no page of docs/results has a table that {file} fills")


if __name__ == "__main__":
    main()

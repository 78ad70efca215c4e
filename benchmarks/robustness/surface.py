"""The surface of the command line, of an earlier commit and of the working tree: options, documents, exit statuses.

The help of every command is read for its options, required arguments, defaults and choices, in typer's layout or in
cyclopts'. Both checkouts run the same commands, each on its own copy of a simulated world, and what they print on
stdout is compared key by key. Mistakes must end with the same exit status, as must each number below the least value
that the earlier commit's help states. Each difference is a line on stderr. `compare-served` has no canary to compare
here, so only its exit status counts.
"""

import argparse
import json
import re
import shlex
import shutil
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.checkout import PROGRAM, Checkout, base_checkout
from benchmarks.load import serving

# Times, what is drawn anew by each call, and what depends on either. Versions lose their random end, see `document`.
VARYING = frozenset(
    "seconds cpu_ms microseconds us p50_us p99_us at published_at id items_id manifest by host pid".split()
)
SHOWN = 5
"""Differences of a document that are printed."""
LITTLE = "--set train.epochs=1"
WORLD = "--requests 600 --candidates 20 --users 100 --items 300"
DAILY = """
{config: config.yaml, first: 2026-03-03, period: 1d, holdout: 4h, delay: 30m, changes: [train.epochs=1],
 gate: [rank.exposed.click.auc >= 0.0], store: "lmdb:store", users: users.parquet}
"""
DOCUMENTS = f"""
check @config.yaml --json
pack @config.yaml --json
train @config.yaml --run @a {LITTLE} --json
train @config.yaml --run @b {LITTLE} --set train.seed=1 --json
evaluate @a --json
evaluate @a --by day --json
evaluate @a --reference @b --json
compare @a @b --json
check @config.yaml --against @a --set 'data.split={{valid: 2026-03-10, test: 2026-03-10T12:00}}' --json
explain @a --requests 50 --json
export @a @bundle --json
export @b @other --json
request @a
rank @bundle @request.json --json
predict @bundle '@log/*.parquet' @scores --users @users.parquet
compare @scores @scores --json
compare @bundle @other --on '@log/*.parquet' --users @users.parquet --json
refresh @other '@log/*.parquet' --users @users.parquet --json
publish @bundle lmdb:@store --json
store ls lmdb:@store --json
store log lmdb:@store --json
SERVE @bundle @served @request.json
replay @served @bundle --json
compare-served @served --json
sweep @config.yaml --grid train.average=0.5,0.9 --seeds 1 {LITTLE} --json
tune @config.yaml --trials 2 {LITTLE} --json
study @config.yaml --questions 1,2,5,7 --seeds 1 --rates 1 {LITTLE} --json
daily @drift/daily.yaml --json
"""
KUAIRAND = f"""
import kuairand KUAIRAND @kuairand
check @kuairand/config.yaml --json
train @kuairand/config.yaml --run @kuairand/run {LITTLE} --json
evaluate @kuairand/run --json
"""
MISTAKES = """
nonsense
--nonsense
evaluate
evaluate @a @b
evaluate @a --nonsense
evaluate @a --split
evaluate @a --split nonsense
evaluate @absent
check @absent.yaml
check @config.yaml --set nonsense=1
check @config.yaml --set train.epochs=many
check @config.yaml --without nonsense
--plugin nonsense check @config.yaml
train @config.yaml --workers many
train @config.yaml --run @a
import
import nonsense
import kuairand @absent @imported
simulate @ --requests many
store
store ls
store ls nonsense:@store
store rollback lmdb:@store nonsense
rank @bundle @absent.json
sweep @config.yaml
study @config.yaml --questions 99
token one --tokens @tokens
token one --tokens @tokens --scope nonsense
"""
type Rows = dict[str, dict[str, str]]
"""Option or argument → what help says of it."""


def pages(code: Checkout) -> dict[str, str]:
    """The help of each command by its name, groups and the root included."""
    pages, names = {}, [""]
    while names:
        with ThreadPoolExecutor() as pool:
            helps = pool.map(lambda name: code.output(*name.split(), "--help"), names)
        read = dict(zip(names, helps, strict=True))
        pages |= read
        names = [f"{name} {word}".strip() for name, page in read.items() for word in commands(page)]
    return pages


def commands(page: str) -> list[str]:
    return [row.split()[0] for title, row in rows(page) if title == "Commands" and not row.startswith("-")]


def rows(page: str) -> Iterator[tuple[str, str]]:
    """The panels' rows with the titles of their panels; a required row starts with a star."""
    title = ""
    for line in page.splitlines():
        if border := re.match(r"╭─ (.+?) ─", line):
            title = border[1]
        elif row := line.strip(" │"):
            if title and line.startswith("│"):
                yield title, row


def surface(page: str) -> Rows:
    """What a page says of each option and argument.

    A default that is false or empty is none: typer does not print it, cyclopts does.
    """
    said: Rows = {}
    for title, row in rows(page):
        if title == "Commands":
            continue
        head, *cells = re.split(r" {2,}", re.sub(r"^\* +", "", row))
        while cells and cells[0].startswith("--"):  # typer prints --no-x in a column of its own
            head += f" {cells.pop(0)}"
        names = re.findall(r"(?<!\S)--[a-z][a-z-]*", head)
        if not head.startswith("-"):
            names.insert(0, head.split()[0].strip("[]{}").upper())
        default = re.search(r"\[default: (.*?)\]", row)
        choices = re.search(r"<(\w+(?:\|\w+)+)>|\[choices: (.*?)\]", row)
        facts = {
            "required": "[required]" * (row.startswith("*") or "[required]" in row),
            "default": re.sub(r"^(False|None|no-.*)$", "", default[1]) if default else "",
            "choices": ", ".join(re.split(r"\||, ", choices[1] or choices[2])) if choices else "",
        }
        said |= dict.fromkeys(names, facts)
    ignored = ("--help", "--version", "--install-completion", "--show-completion")
    return {name: facts for name, facts in said.items() if name not in ignored}


def compare_help(
    old: Mapping[str, str], new: Mapping[str, str], say: Callable[[str], None]
) -> tuple[int, int]:
    """Differences of options and arguments; and of `--no-x` and `--empty-x`, which cyclopts generates."""
    differences = negatives = 0
    for command in sorted(old.keys() | new.keys()):
        before, after = (surface(side[command]) if command in side else None for side in (old, new))
        if before is None or after is None:
            say(f"{command}: {'absent' if before is None else 'a command'} → the opposite")
            differences += 1
            continue
        for name in sorted(before.keys() | after.keys()):
            was, now = (
                " ".join(filter(None, side[name].values())) or "optional" if name in side else "absent"
                for side in (before, after)
            )
            if was == now:
                continue
            say(f"{command} {name}: {was} → {now}".strip())
            if re.match("--(no|empty)-", name) and "absent" in (was, now):
                negatives += 1
            else:
                differences += 1
    return differences, negatives


def bounds(old: Mapping[str, str]) -> list[str]:
    """Commands with a number below the least that the old help states; their arguments are files that are absent."""
    return [
        " ".join([command, *["@absent"] * row_count(page), name, str(float(least) - 1).removesuffix(".0")])
        for command, page in old.items()
        for name, least in re.findall(r"(--[a-z-]+) .*? range> \[(?:x>=)?([\d.]+)(?:<=x.*)?\]", page)
    ]


def row_count(page: str) -> int:
    return sum(title == "Arguments" and "[required]" in row for title, row in rows(page))


def run(code: Checkout, folder: Path, line: str, kuairand: Path | None) -> tuple[int, Any]:
    """The exit status and the document of a command; `@` is the folder of the side."""
    words = [word.replace("@", f"{folder}/") for word in shlex.split(line)]
    words = [str(kuairand) if word == "KUAIRAND" else word for word in words]
    if words[0] == "SERVE":
        return serve(code, *words[1:])
    done = code.run(*words)
    if words[0] == "request":
        (folder / "request.json").write_text(done.stdout, encoding="utf-8")
    return done.returncode, document(done.stdout.replace(str(folder), ""))


def document(text: str) -> Any:
    """A command's JSON, with versions without the random id of their items; text that is none as it is."""
    text = re.sub(r"\b([0-9a-f]{16}-\d+)-[0-9a-f]{8}\b", r"\1", text)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def serve(code: Checkout, bundle: str, log: str, request: str) -> tuple[int, Any]:
    """The service's answer to a request, which it logs ten times."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = ["env", f"PYTHONPATH={code.root}", "OMP_NUM_THREADS=1", sys.executable, "-P", "-c", PROGRAM]
    options = ("--port", port, "--workers", 1, "--log", log)
    with serving([*start, "serve", bundle, *options], port):
        for _ in range(10):
            ask = urllib.request.Request(f"http://127.0.0.1:{port}/rank", Path(request).read_bytes())
            ask.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(ask, timeout=60) as answer:
                text = answer.read().decode()
    return 0, document(text)


def differing(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The paths at which two documents differ, but for the keys that vary."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() | new.keys()) - VARYING):
            if key in old and key in new:
                yield from differing(old[key], new[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}: {'absent' if key in new else 'there'} before"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for n, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from differing(was, now, f"{path}[{n}]")
    elif old != new or type(old) is not type(new):
        yield f"{path}: {str(old)[:80]!r} → {str(new)[:80]!r}"


def measure(base: Checkout, new: Checkout, folder: Path, kuairand: Path | None) -> dict[str, harness.Figure]:
    """The figures; differences are said on stderr."""

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")

    old_pages, new_pages = pages(base), pages(new)
    differences, negatives = compare_help(old_pages, new_pages, say)
    sides = [(base, folder / "old"), (new, folder / "new")]
    base.output("simulate", sides[0][1], *WORLD.split())
    base.output("simulate", sides[0][1] / "drift", "--days", 3, "--drift", *WORLD.split())
    (sides[0][1] / "drift" / "daily.yaml").write_text(DAILY, encoding="utf-8")
    shutil.copytree(sides[0][1], sides[1][1])
    lines = (DOCUMENTS + KUAIRAND * bool(kuairand)).strip().splitlines()
    mistakes = MISTAKES.strip().splitlines() + bounds(old_pages)
    with ThreadPoolExecutor(2) as pool:
        old, now = pool.map(lambda s: [run(*s, line, kuairand) for line in lines + mistakes], sides)
    compared = differ = exits = 0
    for line, (status, before), (other, after) in zip(lines + mistakes, old, now, strict=True):
        if status != other:
            say(f"{line}: exit {status} → {other}")
            exits += 1
        if line in lines:
            paths = list(differing(before, after))
            for path in paths[:SHOWN]:
                say(f"{line}: {path}")
            compared += not isinstance(before, str)
            differ += bool(paths)
    return {
        "help.commands": len(old_pages),
        "help.options": sum(len(surface(page)) for page in old_pages.values()),
        "help.differences": differences,
        "help.negatives": negatives,
        "documents.compared": compared,
        "documents.differences": differ,
        "exits.compared": len(old),
        "exits.differences": exits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench surface", description=__doc__)
    parser.add_argument("base", nargs="?", default="HEAD", help="the earlier commit")
    parser.add_argument("--kuairand", type=Path, metavar="DIR", help="KuaiRand-Pure, to be imported, too")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        base_checkout(Path(folder), arguments.base) as (base, new),
    ):
        figures = measure(base, new, Path(folder), arguments.kuairand)
    aims = {f"{part}.differences": ("==", 0) for part in ("help", "documents", "exits")}
    harness.report("surface", figures, aims, arguments.json)


if __name__ == "__main__":
    main()

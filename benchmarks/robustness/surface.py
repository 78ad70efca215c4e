"""The surface of the command line, of an earlier commit and of the working tree: options, documents, exit statuses.

Help is read, in typer's layout or cyclopts', for each command's options, required arguments, defaults and choices. Both
checkouts run the same commands, each on its own copy of a simulated world; stdout is compared key by key. Mistakes
must end with the same exit status, as must numbers below the least that the earlier help states. Each difference is a
line on stderr. The document of `compare-served` is not compared: it needs two services, and their traffic.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import harness
from benchmarks.checkout import PROGRAM, Checkout, base_checkout
from benchmarks.load import free_port, serving

# Times, processes, and what is drawn anew by each call or rests on that
VARYING = frozenset(
    {"seconds", "cpu_ms", "microseconds", "at", "published_at", "served_id", "items_id", "manifest"}
)
# The ends of versions, ids of a store's changes, and sizes of graphs, which hold the paths of the code
RANDOM = re.compile(r'(?<=[0-9a-f]{16}-\d)-[0-9a-f]{8}\b|(?<="id": ")[0-9a-f]{16}(?=")|(?<=\.onnx": )\d+')
OWN = "Arguments|Options|Parameters"
# Panels of a command's own; others list commands
IGNORED = {"--help", "--version", "--install-completion", "--show-completion"}
LATER = "--set 'data.split={valid: 2026-03-10, test: 2026-03-10T12:00}'"
LITTLE = "--set train.epochs=1"
WORLD = "--requests 600 --candidates 20 --users 100 --items 300"
DAILY = """{config: config.yaml, first: 2026-03-03, period: 1d, holdout: 4h, delay: 30m, changes: [train.epochs=1],
 gate: [rank.exposed.click.auc >= 0.0], store: "lmdb:store", users: users.parquet}"""
DOCUMENTS = f"""
check @config.yaml --json
pack @config.yaml --json
train @config.yaml --run @a {LITTLE} --json
train @config.yaml --run @b {LITTLE} --set train.seed=1 --json
evaluate @a --json
evaluate @a --by day --json
evaluate @a --reference @b --json
compare @a @b --json
check @config.yaml --against @a {LATER} --json
check @config.yaml --against @a {LATER} --set drift.rows=1.0001 --json
explain @a --json
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
serve @bundle --workers 1 --log @served --max-clock-skew 10000d
replay @served @bundle --json
tune @config.yaml --trials 2 {LITTLE} --json
experiment @config.yaml structures --seeds 1 {LITTLE} --json
daily @drift/daily.yaml --json
"""
KUAIRAND = f"""
import kuairand @release @kuairand
check @kuairand/config.yaml --json
train @kuairand/config.yaml --run @kuairand/run {LITTLE} --json
evaluate @kuairand/run --json
"""
MISTAKES = """
nonsense | --nonsense | import | import nonsense | store | store ls nonsense:@store | check @absent.yaml
evaluate | evaluate @a @b | evaluate @a --nonsense | evaluate @a --split | evaluate @a --split nonsense
check @config.yaml --set nonsense=1 | check @config.yaml --without nonsense | train @config.yaml --workers many
train @config.yaml --run @a | rank @bundle @absent.json | compare-served @served --json
experiment @config.yaml nonsense | token one --tokens @tokens | token one --tokens @tokens --scope nonsense
--plugin nonsense check @config.yaml | token one --tokens @tokens --scope read --rate 0
"""


def pages(code: Checkout, name: str = "") -> dict[str, str]:
    """The help of a command, and of those below it, by their names."""
    read = {name: code.output(*name.split(), "--help")}
    for row in rows(read[name], f"(?!{OWN})[^─]+"):
        if not row.startswith("-"):
            read |= pages(code, f"{name} {row.split()[0]}".strip())
    return read


def rows(page: str, panel: str = "") -> list[str]:
    """The rows of a page's panels of such a title, of arguments and options by default; a required one has a star."""
    panels = re.findall(rf"╭─ (?:{panel or OWN}) ─.*\n((?:│.*\n)*)", page)
    return [row.strip(" │") for lines in panels for row in lines.splitlines()]


def surface(page: str) -> dict[str, str]:
    """What a page says of each option and argument; typer does not print a default that is false or empty."""
    said: dict[str, str] = {}
    for row in rows(page):
        head, *cells = re.split(r" {2,}", re.sub(r"^\* +", "", row))
        if cells and cells[0].startswith("--"):  # typer prints --no-x in a column of its own
            head += f" {cells[0]}"
        names = {*re.findall(r"(?<!\S)--[a-z][a-z-]*", head)} - IGNORED
        if not head.startswith("-"):  # by its number: what stands for it in the usage may change
            names |= {f"argument {sum(name.startswith('argument') for name in said) + 1}"}
        facts = ["required"] * (row.startswith("*") or "[required]" in row)
        defaults = re.findall(r"\[default: (?!False|None|no-|\[\]|\(\))(.*?)\]", row)
        facts += [f"default {text}" for text in defaults]
        choices = re.findall(r"<(\w+(?:\|\w+)+)>|\[choices: (.*?)\]", row)
        facts += ["choices " + (typer.replace("|", ", ") or cyclopts) for typer, cyclopts in choices]
        said |= dict.fromkeys(names, ", ".join(facts) or "optional")
    return said


def too_small(old: Mapping[str, str]) -> Iterator[str]:
    """Commands with a number below the least that typer's help states; their files are absent."""
    for command, page in old.items():
        arguments = ["@absent"] * sum("[required]" in row for row in rows(page, "Arguments"))
        for name, least in re.findall(r"(--[a-z-]+) .*? range> \[(?:x>=)?([\d.]+)(?:<=x.*)?\]", page):
            yield " ".join([command, *arguments, f"{name}={float(least) - 1:g}"])


def run(code: Checkout, folder: Path, line: str) -> tuple[int, Any]:
    """The exit status and the document of a command; `@` is the folder of the side."""
    words = [word.replace("@", f"{folder}/") for word in shlex.split(line)]
    if "--max-clock-skew" in words:
        return serve(code, words, folder / "request.json")
    done = code.run(*words)
    if words[0] == "request":
        (folder / "request.json").write_text(done.stdout, encoding="utf-8")
    return done.returncode, document(done.stdout.replace(str(folder), ""))


def document(text: str) -> Any:
    """A JSON document without random ids; text that is none as it is."""
    text = RANDOM.sub("0", text)
    return json.loads(text) if text[:1] in ("{", "[") else text


def serve(code: Checkout, words: Sequence[str], request: Path) -> tuple[int, Any]:
    """The answer of a service to a request, which it logs."""
    port = free_port()
    start = ["env", f"PYTHONPATH={code.root}", "OMP_NUM_THREADS=1", sys.executable, "-P", "-c", PROGRAM]
    try:
        with serving([*start, *words, "--port", port], port):
            answer = httpx2.post(f"http://127.0.0.1:{port}/rank", json=json.loads(request.read_text("utf-8")))
            return answer.status_code, document(answer.text)
    except (OSError, RuntimeError) as error:
        return 1, str(error)


def differing(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The paths at which two documents differ, but for the keys that vary."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() | new.keys()) - VARYING):
            yield from differing(old.get(key, "absent"), new.get(key, "absent"), f"{path} {key}".strip())
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from differing(was, now, f"{path} {number}")
    elif old != new or type(old) is not type(new):
        yield f"{path}: {str(old)[:80]} → {str(new)[:80]}"


def measure(base: Checkout, new: Checkout, folder: Path, kuairand: Path | None) -> dict[str, harness.Figure]:
    """The figures; each difference is a line on stderr."""
    tables, copy = folder / "old", folder / "new"
    base.output("simulate", tables, *WORLD.split())
    base.output("simulate", tables / "drift", "--days", 3, "--drift", *WORLD.split())
    (tables / "drift" / "daily.yaml").write_text(DAILY, encoding="utf-8")
    if kuairand:
        (tables / "release").symlink_to(kuairand.resolve())
    shutil.copytree(tables, copy, symlinks=True)
    documents = [line for line in (DOCUMENTS + KUAIRAND * bool(kuairand)).splitlines() if line]
    with ThreadPoolExecutor(2) as pool:
        old_pages, new_pages = pool.map(pages, (base, new))
        lines = [*documents, *re.split(r" \| |\n", MISTAKES.strip()), *too_small(old_pages)]
        old, now = pool.map(
            lambda side: [run(side[0], side[1], line) for line in lines], [(base, tables), (new, copy)]
        )
    if failed := [
        line for line, (status, _) in zip(documents, old, strict=False) if status not in (0, 3, 200)
    ]:
        raise RuntimeError(f"{base.root}: nothing to compare: {failed}")
    before, after = ({name: surface(page) for name, page in side.items()} for side in (old_pages, new_pages))
    helps = list(differing(before, after))
    negatives = [line for line in helps if re.search(r" --(no|empty)-\S+: (absent →|.* → absent)", line)]
    results = list(zip(lines, old, now, strict=True))
    exits = [f"{line}: exit {was[0]} → {is_[0]}" for line, was, is_ in results if was[0] != is_[0]]
    paths = [list(differing(was[1], is_[1], f"{line}:")) for line, was, is_ in results[: len(documents)]]
    said = [*helps, *exits, *(path for each in paths for path in each[:5])]
    sys.stderr.writelines(f"{line}\n" for line in said)
    return {
        "help.commands": len(old_pages),
        "help.options": sum(map(len, before.values())),
        "help.differences": len(helps) - len(negatives),
        "help.negatives": len(negatives),
        "documents.compared": sum(not isinstance(was[1], str) for was in old),
        "documents.differences": sum(map(bool, paths)),
        "exits.compared": len(lines),
        "exits.differences": len(exits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench surface", description=__doc__)
    parser.add_argument("base", nargs="?", default="HEAD", help="the earlier commit")
    parser.add_argument("--kuairand", type=Path, metavar="DIR", help="KuaiRand-Pure, to be imported, too")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ |= {"COLUMNS": "500", "TERM": "dumb", "PYTHONUTF8": "1"}  # help without wrapped rows
    with tempfile.TemporaryDirectory() as folder, base_checkout(Path(folder), arguments.base) as (base, new):
        figures = measure(base, new, Path(folder), arguments.kuairand)
    aims = {f"{part}.differences": ("==", 0) for part in ("help", "documents", "exits")}
    harness.report("surface", figures, aims, arguments.json)


if __name__ == "__main__":
    main()

"""What `corank import` and `corank check` say to type on the logs of real_logs: typed, whether it works.

`advice DIR…` takes the folders of real_logs. Each log is imported and checked by command. What a line says to type is
typed: `--along`, `--nulls` and `--position` at the import, `--set`, `--without` and `write KEY: VALUE` at the check,
`corank …` with a run of one epoch. It works if the command exits with 0, and the line is gone after an import or a
check. Advice that names nothing to type fails.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import harness
from benchmarks.checkout import ROOT, Checkout
from benchmarks.quality.drawn_logs import SHAPES, draw_log
from benchmarks.quality.own_logs import drawn_logs, list_columns, news_logs, video_logs
from benchmarks.quality.real_logs import find_layout
from corank.datasets.lists import Lists
from corank_lab.datasets.ebnerd import EbnerdFiles
from corank_lab.datasets.mind import MindFiles
from corank_lab.datasets.news import News

Done = subprocess.CompletedProcess[str]
Words = tuple[str, ...]
"""Of a command: what follows `corank`."""
_OPTION = re.compile(r"(--(?:along|nulls|position|set|without)) ('[^']*'|[^\s;)]+)")
_WRITE = re.compile(r"(?:write|, and) ([a-z_][\w.]*): (\[[^]]*\]|\{[^}]*\}|\S+)")
_COMMAND = re.compile(r"`corank ([^`]+)`")
_DROPS = "--without drops it"
_AT_IMPORT = ("--along", "--nulls", "--position")
_QUICK = ("--set", "train.epochs=1", "--set", "baseline=false")


@dataclass(frozen=True)
class Log:
    """Files that a newcomer brings, and the words that import them."""

    write: Callable[[Path], object]
    words: Callable[[Path], Words]
    """Of `corank import`, but for the folder that is written; none if `write` writes a config."""


@dataclass(frozen=True)
class Typed:
    """Something that a line says to type, and what came of it."""

    line: str
    words: Words
    """Blank if the line names nothing."""
    fault: str
    """Blank if it works."""


def find_logs(folders: Sequence[Path], requests: int) -> dict[str, Log]:
    """The logs of real_logs, by name, those of folders among them; the smallest first."""
    logs = {name: _drawn(name) for name in SHAPES}
    for folder in folders:
        layout = find_layout(folder)
        logs[layout] = Log(lambda _: None, partial(_import_folder, layout, folder))
        if layout == "kuairand":
            lists = {name: _lists("user_id", "video_id") for name in ("few", "two_days", "lists")}
            words = lists | {"obd": partial(_imported, "obd")}
            logs |= {name: Log(write, words[name]) for name, (write, _) in video_logs(folder).items()}
    logs["hotels"] = Log(drawn_logs(requests)["hotels"][0], _lists("user", "hotel"))
    written: dict[str, Callable[[Path], object]] = {n: write for n, (write, _) in news_logs(requests).items()}
    written |= {
        "mind_files": lambda folder: MindFiles(requests=requests).simulate(folder, overwrite=True),
        "ebnerd_files": lambda folder: EbnerdFiles(requests=requests).simulate(folder, overwrite=True),
    }
    logs |= {name: Log(write, partial(_imported, name.partition("_")[0])) for name, write in written.items()}
    logs["news"] = Log(
        lambda folder: News(requests=requests).simulate(folder, overwrite=True), lambda folder: ()
    )
    return logs


def _drawn(name: str) -> Log:
    log = draw_log(name, 0)
    return Log(log.write, lambda folder: _as_words(*log.source(folder)))


def _lists(user: str, item: str) -> Callable[[Path], Words]:
    return lambda folder: _as_words(folder / "log.parquet", list_columns(folder, user, item))


def _as_words(source: Path, columns: Lists) -> Words:
    named = columns.model_dump(exclude_defaults=True)
    options = [word for name, value in named.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ("lists", str(source), *options)


def _imported(layout: str, source: Path) -> Words:
    return (layout, str(source))


def _import_folder(layout: str, folder: Path, _: Path) -> Words:
    return _imported(layout, folder)


def type_all(log: Log, work: Path) -> list[Typed]:
    """Import and check a log in a new folder, and type what both say. Raises RuntimeError if either fails."""
    files, data = work / "files", work / "data"
    files.mkdir(parents=True)
    log.write(files)
    words = log.words(files)
    said = _require(_corank("import", words[0], words[1], data, *words[2:])).stderr if words else ""
    config = (data if words else files) / "config.yaml"
    findings = _require(_corank("check", config, "--json")).stdout
    lines = [line for line in said.splitlines() if _OPTION.search(line)]
    return [
        *(
            one
            for n, line in enumerate(lines)
            for one in _type_line(line, words, work / f"again {n}", config)
        ),
        *(
            one
            for finding in json.loads(findings)["findings"]
            for one in _type_finding(finding, config, work)
        ),
    ]


def _type_line(line: str, words: Words, out: Path, config: Path) -> Iterator[Typed]:
    """Type what a line of the import says."""
    options = _options(line)
    if options[0][0] not in _AT_IMPORT:
        done = _corank("check", config, *(word for option in options for word in option))
        yield Typed(line, sum(options, ()), _fault(done))
        return
    for n, option in enumerate(options):
        done = _corank("import", words[0], words[1], f"{out} {n}", *words[2:], *option)
        yield Typed(line, option, _fault(done) or "still said" * (line in done.stderr.splitlines()))


def _type_finding(finding: dict[str, Any], config: Path, work: Path) -> Iterator[Typed]:
    """Type what a finding of `check` says, at each of its places."""
    line = f"{finding['severity']}: {finding['finding']}"
    named = False
    for place in finding["where"]:
        for words in _checked(finding["finding"], place):
            named = True
            done = _corank("check", config, "--json", *words)
            left = [] if done.returncode else json.loads(done.stdout)["findings"]
            again = any(place in one["where"] and words in _checked(one["finding"], place) for one in left)
            yield Typed(line, words, _fault(done) or "still said" * again)
    for command in _COMMAND.findall(line):
        named, run = True, work / "run"
        if not run.exists():
            _require(_corank("train", config, "--run", run, *_QUICK))
        words = tuple(shlex.split(command.replace("RUN", shlex.quote(str(run)))))
        yield Typed(line, tuple(command.split()), _fault(_corank(*words)))
    if not named and finding["severity"] == "advice":
        yield Typed(line, (), "names nothing to type")


def _checked(text: str, place: str) -> list[Words]:
    """What a finding says to type at `check`, of one of its places."""
    if _DROPS in text:
        return [("--without", place)]
    written = [("--set", f"{key}={value}") for key, value in _WRITE.findall(text)]
    options = [*written, *_options(text)]
    return [sum(options, ())] if options else []


def _options(text: str) -> list[Words]:
    return [(name, *shlex.split(value)) for name, value in _OPTION.findall(text)]


def _corank(*words: object) -> Done:
    return Checkout(ROOT).run(*words)


def _require(done: Done) -> Done:
    if done.returncode:
        raise RuntimeError(f"{done.args[4:]}: {done.stderr}")
    return done


def _fault(done: Done) -> str:
    return f"exit {done.returncode}: {done.stderr.strip()}" if done.returncode else ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench advice", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="KuaiRand-Pure, MIND or EB-NeRD")
    parser.add_argument("--requests", type=int, default=20_000, help="of the simulated worlds")
    parser.add_argument("--only", help="these logs alone; with commas")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say, figures = Console(file=sys.stderr, soft_wrap=True).print, dict[str, harness.Figure]()
    only = None if arguments.only is None else set(arguments.only.split(","))
    faults = 0
    for name, log in find_logs(arguments.folders, arguments.requests).items():
        if only is not None and name not in only:
            continue
        with tempfile.TemporaryDirectory() as work:
            typed = type_all(log, Path(work))
        for one in typed:
            say(f"{name}: {one.line}\n  {shlex.join(one.words)}: {one.fault or 'works'}", markup=False)
        figures |= {f"{name}.typed": len(typed), f"{name}.faults": sum(bool(one.fault) for one in typed)}
        faults += int(figures[f"{name}.faults"])
    figures["faults"] = faults
    harness.report("advice", figures, {"faults": ("<=", 0)}, arguments.json)


if __name__ == "__main__":
    main()

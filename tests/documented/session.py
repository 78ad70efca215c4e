"""A page that is run: a folder, a shell whose state lasts, a process of Python, services."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

from tests.documented.output import not_shown
from tests.documented.pages import Block, Page
from tests.documented.ports import only_service
from tests.documented.prepared import Place
from tests.documented.wheelhouse import make_environment, pip_settings, shared_environment
from tests.support.waiting import PATIENCE, eventually

ASSIGNMENTS = r"(?:\w+=\S*[ \t]+)*"
SERVICE = re.compile(rf"^{ASSIGNMENTS}corank (?:--plugin \S+ )?(serve|follow)\b", re.MULTILINE)
ENDS = re.compile(r"--(print-config|help)\b")
LAST = 40
"""Lines of output that a failure shows."""

SHELL = """
set -euo pipefail
. {state}/variables
cd "$(cat {state}/folder)"
{exit}
{code}
"""
KEEP = """
trap 'export -p >{state}/variables; pwd >{state}/folder' EXIT
trap 'echo "ended with $?: $BASH_COMMAND" >&2' ERR
"""
PYTHON = """
import pathlib, sys, traceback
if __name__ == "__main__":
    names = {"__name__": "__main__"}
    sys.path.insert(0, "")
    for line in sys.stdin:
        path = pathlib.Path(line.strip())
        try:
            exec(compile(path.read_text(), path.name, "exec"), names)
            status = "0"
        except BaseException:
            traceback.print_exc()
            status = "1"
        sys.stdout.flush()
        part = path.with_suffix(".part")
        part.write_text(status)
        part.rename(path.with_suffix(".status"))
"""


class BlockError(Exception):
    """A block that failed; the message has the end of its output."""


@dataclass
class Outcome:
    """What became of a page's blocks."""

    ran: int = 0
    failed: list[str] = field(default_factory=list)
    """Where and why."""
    not_run: list[str] = field(default_factory=list)
    """Where, why, and what is checked instead."""


def run_page(page: Page, folder: Path) -> Outcome:
    """Run all blocks of a page in a new folder, and go on after one that fails."""
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        session = Session(page, folder, stack)
        for block in page.blocks:
            where = f"{page.name}:{block.line}"
            if "not run" in block.says:
                session.printed = None
                outcome.not_run.append(f"{where}: {block.says['not run']}; instead: {block.says['instead']}")
                continue
            try:
                session.run(block)
            except BlockError as error:
                outcome.failed.append(f"{where}\n{block.code}\n{error}")
            else:
                outcome.ran += block.is_run
        try:
            session.end_services()
        except BlockError as error:
            outcome.failed.append(f"{page.name}: {error}")
    return outcome


@dataclass
class Service:
    """A command that stays in the foreground."""

    kind: str
    command: str
    process: subprocess.Popen[bytes]
    output: Path
    lock: contextlib.ExitStack

    def end(self) -> str | None:
        """End it as an operator does. Returns what was wrong."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status: int | str = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = "none"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # and what it left
        self.lock.close()
        return None if status == 0 else f"{self.command}\nended with status {status}\n{_tail(self.output)}"


class Session:
    """Runs the blocks of a page."""

    def __init__(self, page: Page, folder: Path, stack: contextlib.ExitStack) -> None:
        """
        Args:
            page: the page.
            folder: a new one.
            stack: ends what runs beside.
        """
        self.page, self.stack = page, stack
        self.state, place = folder / "state", folder / "page"
        for path in (self.state, place, folder / "home"):
            path.mkdir(parents=True)
        (folder / "home" / ".curlrc").write_text("fail-with-body\n")
        if page.installs:
            environment = make_environment(folder / "environment", page.extras, with_pip=True)
        else:
            environment = shared_environment(page.extras)
        variables = {
            name: os.environ[name] for name in ("LANG", "LC_ALL", "TERM", "TMPDIR") if name in os.environ
        }
        variables |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "COLUMNS": "200"} | pip_settings()
        variables |= {"HOME": str(folder / "home"), "SHELL": "/bin/bash"}
        variables["PATH"] = f"{environment / 'bin'}:{os.environ['PATH']}"
        self.place = Place(place, variables, stack)
        self.values = {"folder": str(place)}
        self.prepare(page.says.get("prepare", []))
        (self.state / "folder").write_text(str(place))
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
        (self.state / "variables").write_text("".join(lines))
        self.services: list[Service] = []
        self.python: subprocess.Popen[str] | None = None
        self.count = 0
        self.printed: str | None = None
        stack.callback(self._stop)

    def prepare(self, names: list[str]) -> None:
        """Make what a page or a block assumes."""
        for name in names:
            self.values |= self.place.prepare(name)

    def run(self, block: Block) -> None:
        """Run a block, write its file, or compare what it shows. Raises BlockError."""
        self.prepare(block.says.get("prepare", []))
        if before := block.says.get("before"):
            self._shell(self._replaced(before, block), block)
        code = self._replaced(block.code, block)
        if block.file:
            path = Path(self._folder(), self._replaced(block.file, block))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code, encoding="utf-8")
            if block.language == "python":
                self._shell(f"python {shlex.quote(str(path))}", block)
        elif block.language == "sh":
            self.printed = ""
            if "until" in block.says:
                self._until(code, block)
            else:
                self._commands(code, block)
        elif block.language == "python":
            self._python(code)
        elif block.language in ("text", "console") and self.printed is not None and "shows" not in block.says:
            missing = not_shown(code, self.printed, bool(block.says.get("unordered")))
            if missing is not None:
                raise BlockError(
                    f"the page shows, but the block before did not print:\n{missing}\nIt printed:\n{self.printed}"
                )

    def _replaced(self, text: str, block: Block) -> str:
        """What is run instead of a text: texts that stand in it are replaced, the longest first."""
        changes = self.page.says.get("replace", {}) | block.says.get("replace", {})
        if not changes:
            return text
        some = re.compile(
            "|".join(re.escape(str(old)) for old in sorted(changes, key=lambda old: -len(str(old))))
        )
        named = {str(old): str(new) for old, new in changes.items()}

        def new(match: re.Match[str]) -> str:
            return re.sub(r"\{(\w+)\}", lambda value: self.values.get(value[1], value[0]), named[match[0]])

        return some.sub(new, text)

    def _commands(self, code: str, block: Block) -> None:
        """Run the commands of a block, those that stay in the foreground beside the others."""
        waiting: list[str] = []
        for command in _split(code):
            service = SERVICE.match(command)
            if service is None or ENDS.search(command):
                waiting.append(command)
                continue
            if waiting:
                self._shell("\n".join(waiting), block, expected=0)
            waiting = []
            self._serve(service[1], command, block)
        if waiting:
            self._shell("\n".join(waiting), block, expected=int(block.says.get("status", 0)))

    def _shell(self, code: str, block: Block, expected: int = 0) -> None:
        """Run commands, and keep the state of the shell."""
        process, output = self._start(code, keep=True)
        patience = PATIENCE * len(code.splitlines())
        try:
            status: int | str = process.wait(patience)
        except subprocess.TimeoutExpired:
            status = f"none within {patience:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.printed = (self.printed or "") + output.read_text(errors="replace")
        if status != expected:
            raise BlockError(f"status {status}, expected {expected}:\n{_tail(output)}")

    def _start(self, code: str, keep: bool) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a shell with the state of the one before. Returns it and the file of its output."""
        self.count += 1
        script, output = self.state / f"{self.count}.sh", self.state / f"{self.count}.out"
        state = shlex.quote(str(self.state))
        end = KEEP.format(state=state) if keep else ""
        script.write_text(SHELL.format(state=state, exit=end, code=code), encoding="utf-8")
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", str(script)],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, output

    def _serve(self, kind: str, command: str, block: Block) -> None:
        """Start a command that stays in the foreground, and wait until it is ready."""
        lock = contextlib.ExitStack()
        if kind == "serve":
            self.end_services("serve")
            lock.enter_context(only_service())
        command = re.sub(r"\s&\s*$", "", re.sub(r"\s#\s.*$", "", command, flags=re.MULTILINE))
        process, output = self._start(re.sub(rf"^({ASSIGNMENTS})", r"\1exec ", command), keep=False)
        service = Service(kind, command, process, output, lock)
        self.services.append(service)

        def is_ready() -> bool:
            if process.poll() is not None:
                raise BlockError(
                    f"ended with status {process.returncode} before it was ready:\n{_tail(output)}"
                )
            if ready := block.says.get("ready"):
                return self._holds(self._replaced(ready, block))
            return _answers(command) if kind == "serve" else _catches_sigterm(process.pid)

        try:
            self._eventually(is_ready, output)
        except BlockError:
            self.services.remove(service)
            service.end()
            raise

    def _until(self, code: str, block: Block) -> None:
        """Run a block in the foreground until a command ends with 0."""
        process, output = self._start(code, keep=False)
        try:

            def holds() -> bool:
                if process.poll() is not None:
                    raise BlockError(f"ended with status {process.returncode}:\n{_tail(output)}")
                return self._holds(self._replaced(block.says["until"], block))

            self._eventually(holds, output)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(PATIENCE)
            self.printed = output.read_text(errors="replace")

    def _holds(self, command: str) -> bool:
        """Whether a command ends with 0 now."""
        process, _ = self._start(command, keep=False)
        return process.wait(PATIENCE) == 0

    def _eventually(self, condition: Callable[[], bool], output: Path) -> None:
        """Wait until a condition holds. Raises BlockError."""
        try:
            eventually(condition)
        except AssertionError as error:
            raise BlockError(f"{error}\n{_tail(output)}") from error

    def _python(self, code: str) -> None:
        """Run code in the page's process of Python, which starts in the folder where the shell is then."""
        output = self.state / "python.out"
        if self.python is None or self.python.poll() is not None:
            program = self.state / "blocks.py"
            program.write_text(PYTHON)
            script = self.state / "python.sh"
            script.write_text(SHELL.format(state=self.state, exit="", code=f"exec python -u {program}"))
            with output.open("wb") as file:
                self.python = subprocess.Popen(
                    ["bash", str(script)], env={}, stdin=subprocess.PIPE, stdout=file,
                    stderr=subprocess.STDOUT, start_new_session=True, text=True,
                )  # fmt: skip
        self.count += 1
        path, before = self.state / f"{self.count}.py", output.stat().st_size
        path.write_text(code, encoding="utf-8")
        process, status = self.python, path.with_suffix(".status")
        assert process.stdin
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        self._eventually(lambda: status.exists() or process.poll() is not None, output)
        self.printed = output.read_bytes()[before:].decode(errors="replace")
        if not status.exists() or status.read_text() != "0":
            raise BlockError(_tail(output))

    def _folder(self) -> str:
        """The folder of the shell."""
        return (self.state / "folder").read_text().rstrip("\n")

    def end_services(self, kind: str | None = None) -> None:
        """End those of a kind, or all. Raises BlockError if one did not end well."""
        ended = [service for service in self.services if kind in (None, service.kind)]
        self.services = [service for service in self.services if service not in ended]
        wrong = [said for service in reversed(ended) if (said := service.end())]
        if wrong:
            raise BlockError("\n".join(wrong))

    def _stop(self) -> None:
        """End what still runs, whatever has happened."""
        with contextlib.suppress(BlockError):
            self.end_services()
        if self.python is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.python.pid, signal.SIGKILL)
            assert self.python.stdin
            with contextlib.suppress(BrokenPipeError):
                self.python.stdin.close()
            self.python.wait()


def _split(code: str) -> Iterator[str]:
    """The commands of a script, each complete: a line, or several that one command spans."""
    waiting: list[str] = []
    for line in code.splitlines():
        waiting.append(line)
        if line.endswith("\\") or _is_open("\n".join(waiting)):
            continue
        yield "\n".join(waiting)
        waiting = []
    if waiting:
        yield "\n".join(waiting)


def _is_open(script: str) -> bool:
    """Whether bash waits for more lines."""
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    return checked.returncode != 0 or "here-document" in checked.stderr


def _answers(command: str) -> bool:
    """Whether a service answers at its port."""
    port = re.search(r"--port[ =](\d+)", command)
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"http://127.0.0.1:{port[1] if port else 8000}/healthz").status_code == 200
    return False


def _catches_sigterm(pid: int) -> bool:
    """Whether a process has a handler of SIGTERM: it ends well from now on."""
    with contextlib.suppress(OSError, psutil.NoSuchProcess):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def _tail(output: Path) -> str:
    return "\n".join(output.read_text(errors="replace").splitlines()[-LAST:])

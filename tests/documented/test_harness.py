"""The harness itself: what a page gets wrong makes it fail."""

import json
from pathlib import Path
from typing import cast

import pytest

from tests.documented.output import not_shown
from tests.documented.pages import DirectiveError, Page
from tests.documented.session import Outcome, run_page
from tests.documented.summary import print_summary

BARE = "<!-- page: {extras: none} -->\n\n"


def block(language: str, code: str, directive: str = "") -> str:
    """The text of a block."""
    comment = f"<!-- block: {directive} -->\n" if directive else ""
    return f"{comment}```{language}\n{code}\n```\n\n"


def outcome(folder: Path, *blocks: str) -> Outcome:
    """Run a page of blocks without corank."""
    return run_page(Page.parse("page.md", BARE + "".join(blocks)), folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("option", ["", "--verfy "])
def test_a_wrong_option_put_into_a_page_makes_it_fail(option: str, tmp_path: Path) -> None:
    page = Page.read("docs/start/five-minutes.md")
    first, check = (one for one in page.run if one.code.startswith(("corank simulate", "corank check")))
    text = block("sh", first.code) + block("sh", check.code.replace("check ", f"check {option}"))
    some = Page("page.md", Page.parse("page.md", text).blocks, {"replace": page.says["replace"]})
    done = run_page(some, tmp_path / "run")
    assert (done.ran, len(done.failed)) == ((1, 1) if option else (2, 0))
    assert not option or "--verfy" in done.failed[0]


@pytest.mark.slow
def test_blocks_share_folder_variables_and_names(tmp_path: Path) -> None:
    done = outcome(
        tmp_path,
        block("sh", "mkdir inner && cd inner\nexport PLACE=there   # a remark\nHERE=1\necho $HERE >file"),
        block("python", "import os\nvalue = os.environ['PLACE']"),
        block("python", "print(value, open('file').read())"),
        block("text", "there 2"),
        block("sh", "cat <<END \\\n  file\n$PLACE\nEND\npwd"),
        block("text", "1\n…/inner", "{shows: nothing}"),
        block("python", "# part.py\nprint('written')"),
        block("sh", "grep -c written part.py"),
        block("text", "1"),
    )
    assert done.failed == [] and done.ran == 6


@pytest.mark.slow
def test_what_fails_is_named_with_its_line_and_output(tmp_path: Path) -> None:
    done = outcome(
        tmp_path,
        block("sh", "echo said; false | cat; echo after"),
        block("sh", "echo one"),
        block("text", "two"),
        block("python", "raise ValueError('no')"),
        block("sh", "echo $NOT_SET"),
        block("sh", "exit 3", "{status: 3}"),
        block("sh", "true", "{status: 3}"),
        block("sh", "no-such-command"),
        block("sh", "no-such-command", "{not run: no such command, instead: nothing}"),
    )
    assert [text.partition("\n")[0] for text in done.failed] == [
        f"page.md:{n}" for n in (3, 11, 15, 19, 29, 33)
    ]
    assert "said" in done.failed[0] and "two" in done.failed[1] and "ValueError: no" in done.failed[2]
    assert done.ran == 2 and done.not_run == ["page.md:38: no such command; instead: nothing"]


SERVE = "#!/bin/sh\ntrap 'exit {status}' TERM\necho started\nwhile :; do sleep .1; done"


@pytest.mark.slow
@pytest.mark.parametrize("status", [0, 1])
def test_a_service_is_started_beside_and_must_end_well(status: int, tmp_path: Path) -> None:
    done = outcome(
        tmp_path,
        block("sh", SERVE.format(status=status), "{file: bin/corank}"),
        block("sh", 'chmod +x bin/corank\nexport PATH="$PWD/bin:$PATH"'),
        block("sh", "corank follow items there   # stays\ntouch there", "{ready: test ! -e there}"),
        block("sh", "ls there"),
        block("sh", "while sleep .1; do touch done; done", "{until: test -e done}"),
    )
    assert done.ran == 5 and len(done.failed) == status
    assert not status or "ended with status 1\nstarted" in done.failed[0]


@pytest.mark.parametrize(
    "directive",
    [
        "block: {not run: because}",
        "block: {instead: that}",
        "block: {stattus: 3}",
        "block: {not run: because, instead: tests/no_such_test.py}",
        "page: {extra: [train]}",
        "page: [",
    ],
)
def test_a_directive_that_says_nothing_known_is_refused(directive: str) -> None:
    with pytest.raises(DirectiveError, match="page"):
        Page.parse("page.md", f"<!-- {directive} -->\n```sh\ntrue\n```\n")


def test_a_directive_away_from_its_block_is_refused() -> None:
    with pytest.raises(DirectiveError, match="directly before"):
        Page.parse("page.md", f"<!-- block: {{status: 3}} -->\nText.\n\n{block('sh', 'true')}")


@pytest.mark.parametrize("language", ["", "bash"])
def test_a_block_whose_language_is_not_known_to_run_is_refused(language: str) -> None:
    with pytest.raises(DirectiveError, match="name the language"):
        Page.parse("page.md", block(language, "true"))


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ("a 12.5 %  b\nc", None),
        ("a 12.5 b", "a N b"),
        ("c\na 1 % b", "a N % b"),
        ("a …\nd", None),
        ("…\nd", None),
        ("d", None),
        ("model 0e19db57a67e8a81", None),
        ("0.1 … 0.3", None),
        ("0.1 … 0.3 of", "N … N of"),
    ],
)
def test_lines_are_compared_without_numbers(shown: str, missing: str | None) -> None:
    printed = "a 3 % b\n────\nc\n\nd\nmodel 1c68dbb89b03ab\n-0.25 … 1,233.5\n"
    assert not_shown(shown, printed) == missing
    assert not_shown("c\na 1 % b", printed, unordered=True) is None


def test_a_chinese_page_that_differs_only_in_remarks_has_the_same_blocks() -> None:
    english, chinese = (Page.parse("page.md", block("sh", f"true   # {remark}")) for remark in ("yes", "是"))
    assert english.run[0].essence == chinese.run[0].essence == "true"


def test_the_summary_counts_and_lists_what_did_not_run() -> None:
    class Report:
        when = "call"

        def __init__(self, **record: object) -> None:
            self.user_properties = [
                ("documented", json.dumps({"failed": 0, "same": 0, "not_run": []} | record))
            ]

    class Terminal:
        def __init__(self) -> None:
            self.stats = {
                "passed": [Report(page="a.md", ran=2, not_run=["a.md:3: no cluster; instead: x"])],
                "failed": [Report(page="b.md", ran=1, failed=1)],
            }
            self.lines: list[str] = []

        def section(self, title: str) -> None:
            self.lines.append(title)

        def line(self, text: str) -> None:
            self.lines.append(text)

    terminal = Terminal()
    print_summary(cast(pytest.TerminalReporter, terminal))
    assert terminal.lines == [
        "blocks of the documentation",
        "a.md: 2 ran, 0 failed, 1 not run",
        "b.md: 1 ran, 1 failed, 0 not run",
        "2 pages: 3 ran, 1 failed, 1 not run",
        "not run: a.md:3: no cluster; instead: x",
    ]

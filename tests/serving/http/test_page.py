"""The page in a real browser, before a real service: its numbers are the funnel's, and text stays text."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from corank.funnel.request import Request
from corank.training.export import export_bundle
from corank_serve.http.state import funnel_page
from corank_serve.http.tokens import add_token
from tests.support.axe import violations
from tests.support.browser import asked, chromium, faults
from tests.support.cases import Case
from tests.support.random_worlds import LONG, PAGED, RICH
from tests.support.service import running_service
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.browser

T = TypeVar("T")
Document = dict[str, Any]

HOSTILE = '<img src=x onerror="window.broken = 1">'
KEEP = {"prerank": 11, "middle": 7, "rank": 5}


@contextmanager
def service(bundle: Path, *options: str) -> Iterator[str]:
    """The address of `corank serve BUNDLE`."""
    with running_service(str(bundle), bundle.parent / "cache", "--every", "0.1", *options) as (url, _):
        yield f"{url}/"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Three stages, which keep as many as the requests say; ids are text."""
    drawn = LONG | {"text_ids": True}
    base = tmp_path_factory.mktemp("wide") / "case"
    shutil.copytree(shared_case(drawn).base, base, ignore=shutil.ignore_patterns("bundle"))
    world = Case.open(base, drawn)
    stages = [stage.model_copy(update={"keep": KEEP[stage.name]}) for stage in world.config.stages]
    world = replace(world, config=world.config.model_copy(update={"stages": stages}))
    assert world.funnel  # exports the bundle
    return world


@pytest.fixture(scope="module")
def address(case: Case) -> Iterator[str]:
    with service(case.base / "bundle") as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("browser") / "profile") as window:
        yield window


@contextmanager
def opened(browser: Chrome, address: str) -> Iterator[Chrome]:
    """The page, of which nothing is remembered; it asks its own service alone, and nothing goes wrong in it."""
    browser.get(address)
    browser.execute_script("localStorage.clear()")
    faults(browser), asked(browser)  # of the previous page
    browser.refresh()
    yield browser
    assert faults(browser) == []
    assert {url for url in asked(browser) if not url.startswith(address)} == set()


@pytest.fixture
def page(browser: Chrome, address: str) -> Iterator[Chrome]:
    with opened(browser, address) as page:
        yield page


@pytest.fixture
def request_(case: Case) -> Document:
    """All 16 items, an id that is none, and one that is described and would be markup."""
    columns = {name: value for name, value in case.items.row(1, named=True).items() if name != "item_id"}
    ids = case.items["item_id"].to_list()
    return case.request("test", 0) | {
        "candidates": [*ids, "<b>none</b>", {"id": HOSTILE} | columns],
        "keep": KEEP,
        "trace": False,  # the page asks for it all the same
    }


def at(page: Chrome, selector: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def texts(page: Chrome, selector: str) -> list[str]:
    """Of all that a selector finds, read at once."""
    script = """return [...document.querySelectorAll(arguments[0])]
        .map((one) => (one.innerText ?? one.textContent).trim())"""
    return list(page.execute_script(script, selector))


def rows(page: Chrome, table: str) -> list[list[str]]:
    """The cells of a table's body, read at once."""
    script = """return [...document.querySelectorAll(`${arguments[0]} tbody tr`)]
        .map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"""
    return list(page.execute_script(script, table))


def until(page: Chrome, found: Callable[[], T]) -> T:
    """Wait for a true result and return it; the page may redraw its elements meanwhile."""
    return WebDriverWait(page, PATIENCE, 0.05, [StaleElementReferenceException]).until(lambda _: found())


def typed(page: Chrome, text: str) -> None:
    """As pasted."""
    page.execute_script(
        "const body = document.getElementById('body'); body.value = arguments[0];"
        "body.dispatchEvent(new Event('input', { bubbles: true }))",
        text,
    )


def ranked(page: Chrome, request: Document) -> None:
    """Paste a request and rank it; returns when the answer is there."""
    page.execute_script("document.getElementById('told').textContent = ''")
    typed(page, json.dumps(request, ensure_ascii=False))
    at(page, "#rank").click()
    until(page, lambda: at(page, "#told").text)


def five(score: float) -> float:
    """As precise as the page shows it."""
    return float(f"{score:.4e}")


# The document


def test_it_is_one_document_whose_policy_allows_itself_alone() -> None:
    document = funnel_page()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', document)
    assert policy is not None
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", document, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    assert set(re.findall(r"https?://[^\s'\"]+", document)) == {"http://www.w3.org/2000/svg"}


# Output


def test_the_live_version_is_told(page: Chrome, case: Case) -> None:
    manifest = case.funnel.manifest
    assert until(page, lambda: texts(page, "#facts dd")) == [manifest.model_version, "1", "16"]
    assert at(page, "h1").text == page.title.removesuffix(" · corank") == manifest.name
    assert at(page, "#stages").text == "prerank keeps 11 → middle keeps 7 → rank keeps 5"
    assert until(page, lambda: at(page, "#ready").text) == "Ready"
    assert not at(page, "#answer").is_displayed()


def test_its_numbers_are_those_of_the_funnel_in_process(page: Chrome, case: Case, request_: Document) -> None:
    answer = case.funnel.rank(Request.parse(request_ | {"trace": True}))
    ranked(page, request_)
    assert [row[:5] for row in rows(page, "#flow")] == [
        ["candidates", "", "18", "17", "1\nunknown"],
        ["prerank", "11", "17", "11", "6"],
        ["middle", "7", "11", "7", "4"],
        ["rank", "5", "7", "5", "2"],
    ]
    shown = {row[0]: row[1:] for row in rows(page, "#candidates")}
    assert shown.keys() == {entry["id"] for entry in answer["trace"]}
    for entry in answer["trace"]:
        outcome, *cells = shown[entry["id"]]
        for n, stage in enumerate(KEEP):
            expected = entry["stages"].get(stage)
            rank, score = cells[2 * n : 2 * n + 2]
            assert (rank, score) == ("", "") if expected is None else rank == str(expected["rank"])
            assert expected is None or float(score) == five(expected["score"])
        assert outcome == ("kept" if entry["cut"] is None else f"cut by {entry['cut']}")
    best = [row[0] for row in rows(page, "#candidates")][:5]
    assert best == [item["id"] for item in answer["items"]]
    assert texts(page, "#notes code") == ["<b>none</b>", *answer["missing"]]
    parts = rows(page, "#time")
    assert [row[0] for row in parts] == ["receive", *KEEP]
    took, after = ([int(row[n].replace(",", "")) for row in parts] for n in (1, 2))
    assert after == [sum(took[: n + 1]) for n in range(4)]
    assert "17 candidates ranked, 5 in the answer" in at(page, "#told").text
    assert case.funnel.manifest.model_version in at(page, "#told").text


def test_a_dot_shows_its_scores_and_ranks(page: Chrome, case: Case, request_: Document) -> None:
    answer = case.funnel.rank(Request.parse(request_ | {"trace": True}))
    both = {e["id"]: e["stages"] for e in answer["trace"] if "rank" in e["stages"]}
    ranked(page, request_)
    dots = page.find_elements(By.CSS_SELECTOR, "circle.dot")[::-1]
    assert len(dots) == len(both) == 7
    assert len(page.find_elements(By.CSS_SELECTOR, "circle.dot.cut")) == 2
    for rank, dot in enumerate(dots, 1):
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", dot)
        ActionChains(page).move_to_element(dot).perform()
        id_, *lines = at(page, ".tip").text.splitlines()
        assert both[id_]["rank"]["rank"] == rank
        assert len(lines) == len(both[id_])
        for line, (stage, expected) in zip(lines, both[id_].items(), strict=True):
            match = re.fullmatch(rf"{stage}: rank (\d+), score (\S+)", line)
            assert match is not None
            assert (int(match[1]), float(match[2])) == (expected["rank"], five(expected["score"]))
        assert dot.accessible_name == "; ".join([id_, *lines])
    ActionChains(page).move_to_element(at(page, "h1")).perform()
    assert not at(page, ".tip").is_displayed()


def test_an_item_is_shown_beside(page: Chrome, case: Case, request_: Document) -> None:
    ranked(page, request_)
    first, second = (row[0] for row in rows(page, "#candidates")[:2])
    at(page, "#candidates tbody tr td").click()
    until(page, lambda: at(page, "#item").text)
    described = case.funnel.describe_item(first)
    assert described is not None
    rows_of = {row[0]: row[1] for row in rows(page, "#item")}
    assert rows_of.keys() == described["features"].keys() | described["columns"].keys()
    for name, value in (described["features"] | described["columns"]).items():
        if isinstance(value, float):
            assert float(rows_of[name]) == value
        elif isinstance(value, list):
            assert rows_of[name] == (", ".join(map(str, value)) or "–")
        else:
            assert rows_of[name] == ("–" if value is None else str(value))
    page.find_elements(By.CSS_SELECTOR, "#candidates .link")[1].send_keys(Keys.ENTER)
    until(page, lambda: at(page, "#item h3").text == f"Item {second}")
    assert texts(page, "tr.open th") == [second]
    typed(page, json.dumps(request_))
    at(page, "#body").send_keys(Keys.CONTROL, Keys.ENTER)
    until(page, lambda: not at(page, "#item").is_displayed())
    assert page.switch_to.active_element == at(page, "#body")  # a new answer takes no focus


def test_rows_are_sorted_narrowed_and_continued(page: Chrome, request_: Document) -> None:
    columns = {key: value for key, value in request_["candidates"][-1].items() if key != "id"}
    request_["candidates"] += [{"id": f"new{n}"} | columns for n in range(130)]
    ranked(page, request_)
    assert len(rows(page, "#candidates")) == 100
    at(page, "#candidates > button").click()
    assert len(rows(page, "#candidates")) == 147
    for _ in range(2):
        page.find_elements(By.CSS_SELECTOR, ".sort")[2].click()
    assert [int(row[2]) for row in rows(page, "#candidates")] == list(range(147, 0, -1))
    assert texts(page, "[aria-sort=descending]") == ["rank"]
    Select(at(page, "#outcome")).select_by_index(3)
    assert {row[1] for row in rows(page, "#candidates")} == {"cut by middle"}
    Select(at(page, "#outcome")).select_by_index(0)
    at(page, "#find").send_keys("new12")
    assert len(rows(page, "#candidates")) == 11


def test_what_came_from_elsewhere_is_text(page: Chrome, request_: Document) -> None:
    """Ids and columns of a request; that scripts could make no markup of them is the policy's."""
    request_["user"]["id"] = HOSTILE
    ranked(page, request_)
    assert HOSTILE in [row[0] for row in rows(page, "#candidates")]
    assert HOSTILE in at(page, "#said").text
    typed(page, json.dumps(request_ | {"keep": {HOSTILE: 1}}))
    at(page, "#rank").click()
    until(page, lambda: f"no stage '{HOSTILE}'" in at(page, "#said").text)
    assert page.find_elements(By.CSS_SELECTOR, "img, b") == []
    assert page.execute_script("return window.broken") is None


# Input


def test_a_mistake_is_told_while_it_is_typed(page: Chrome) -> None:
    for text, message in (("{", "Not JSON: "), ('{"user": 7}', "Expected an object with a user")):
        typed(page, text)
        until(page, lambda: at(page, "#said").text.startswith(message))  # noqa: B023
        assert at(page, "#body").get_attribute("aria-invalid") == "true"
        at(page, "#rank").click()
        assert page.switch_to.active_element == at(page, "#body")
        assert not any(url.endswith("/rank") for url in asked(page))
    typed(page, '{"user": {"id": "u1"}, "candidates": ["i1", "i2"]}')
    until(page, lambda: at(page, "#said").text == "user u1, 2 candidates")
    assert at(page, "#body").get_attribute("aria-invalid") == "false"


def test_a_refusal_is_told_and_the_answer_of_before_stays(page: Chrome, request_: Document) -> None:
    ranked(page, request_)
    typed(page, json.dumps(request_ | {"keep": {"rank": 99}}))
    at(page, "#rank").click()
    until(page, lambda: at(page, "#told").text == "The answer below is of the previous request.")
    assert at(page, "#said").text.startswith("keep.rank: expected 5 or less")
    assert "stale" in str(at(page, "#answer").get_attribute("class"))
    assert len(page.find_elements(By.CSS_SELECTOR, "#earlier option")) == 2  # one that was ranked
    ranked(page, request_ | {"candidates": ["none", "neither"]})
    assert rows(page, "#flow")[0][:5] == ["candidates", "", "2", "0", "2\nunknown"]
    assert at(page, "#rank-plot").text == "No candidate reached both stages."
    assert rows(page, "#candidates") == []


def test_a_service_that_does_not_answer_is_told(page: Chrome, request_: Document) -> None:
    until(page, lambda: at(page, "#ready").text == "Ready")
    with offline(page):
        until(page, lambda: at(page, "#ready").text.startswith("The service does not answer ("))
        typed(page, json.dumps(request_))
        at(page, "#rank").click()
        until(page, lambda: at(page, "#said").text.startswith("The service does not answer ("))
        assert not at(page, "#answer").is_displayed()
    until(page, lambda: at(page, "#ready").text == "Ready")


@contextmanager
def offline(page: Chrome) -> Iterator[None]:
    line = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.execute_cdp_cmd("Network.emulateNetworkConditions", line | {"offline": True})
    yield
    page.execute_cdp_cmd("Network.emulateNetworkConditions", line | {"offline": False})


def test_a_request_is_sent_by_keys_opened_and_picked(
    page: Chrome, request_: Document, tmp_path: Path
) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request_, ensure_ascii=False), encoding="utf-8")
    at(page, "#file").send_keys(str(file))
    until(page, lambda: at(page, "#body").get_attribute("value") == file.read_text(encoding="utf-8"))
    assert not at(page, "#held").is_displayed()
    at(page, "#body").send_keys(Keys.CONTROL, Keys.ENTER)
    until(page, lambda: at(page, "#told").text)
    page.refresh()
    Select(at(page, "#earlier")).select_by_index(1)
    assert at(page, "#body").get_attribute("value") == file.read_text(encoding="utf-8")
    at(page, "#forget").click()
    assert not at(page, "#held").is_displayed()
    page.refresh()
    assert not at(page, "#held").is_displayed()


def test_it_opens_with_an_example_indented(page: Chrome) -> None:
    text = str(until(page, lambda: at(page, "#body").get_attribute("value")))
    assert at(page, "#said").text.endswith(", 16 candidates")
    assert text.startswith('{\n  "user": {\n    "id": ')
    request = json.loads(text)
    assert max(map(len, text.splitlines())) < 80 and len(text.splitlines()) > len(request["candidates"])
    at(page, "#example").click()
    until(page, lambda: at(page, "#said").text.endswith(", 16 candidates"))
    at(page, "#rank").click()
    until(page, lambda: "16 candidates ranked" in at(page, "#told").text)
    assert texts(page, "#notes code") == []  # nothing is unknown, nothing missing


@contextmanager
def awaiting_example(page: Chrome) -> Iterator[Callable[[str], None]]:
    """The page, opened while its example is under way; yields what lets a text arrive as one."""
    source = """const fetched = window.fetch;
        window.fetch = (path, options) => path !== "example" ? fetched(path, options)
          : new Promise((arrive) => {
            window.give = (text) => arrive({ ok: true, status: 200, text: async () => text });
          });"""
    script = page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    page.refresh()
    until(page, lambda: page.execute_script("return window.give !== undefined"))
    # what follows from an arrival is done before the next task
    yield lambda text: page.execute_async_script("window.give(arguments[0]); setTimeout(arguments[1])", text)
    page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_an_example_keeps_its_values_and_replaces_nothing_if_it_is_late(page: Chrome) -> None:
    with awaiting_example(page) as give:
        give(
            '{"user":{"id":9007199254740993,"name":"a, \\"[b]: {}"},"candidates":[],"weights":[1.50,1e-7,null]}'
        )
        assert at(page, "#body").get_attribute("value") == (
            '{\n  "user": {"id": 9007199254740993, "name": "a, \\"[b]: {}"},\n  "candidates": [],\n'
            '  "weights": [1.50, 1e-7, null]\n}'
        )
    text = '{"user": {"id": "u1"}, "candidates": ["i1"]}'
    with awaiting_example(page) as give:
        typed(page, text)
        give('{"user":{}}')
        assert at(page, "#body").get_attribute("value") == text


# Another service: its version changes, its last stage never has time


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two stages; ids are whole numbers."""
    world = Case.of(tmp_path_factory.mktemp("changing"), RICH)
    assert world.funnel
    return world


def hurried(case: Case, floor: float) -> None:
    """Export it anew: the first stage keeps 9 that score as much, the last has a deadline that is past."""
    prerank, rank = case.config.stages
    stages = [
        prerank.model_copy(update={"min_score": floor, "keep": 9}),
        rank.model_copy(update={"deadline_ms": 0.001}),
    ]
    config = case.config.model_copy(update={"stages": stages})
    export_bundle(case.base / "bundle", config, case.packed, case.model, case.calibrators)


def test_ids_of_64_bits_stay_what_they_are_and_changes_are_told(browser: Chrome, changing: Case) -> None:
    large = [2**53 + 1, 2**63 - 1]
    request = changing.request("test", 0) | {"candidates": [*range(16), *large]}
    with service(changing.base / "bundle") as address, opened(browser, address) as page:
        ranked(page, request)
        assert texts(page, "#notes code")[:2] == [str(id_) for id_ in large]
        assert texts(page, ".notice") == []
        trace = changing.funnel.rank(Request.parse(request | {"trace": True}))["trace"]
        score = sorted((entry["stages"]["prerank"]["score"] for entry in trace), reverse=True)
        floor = round((score[4] + score[5]) / 2, 6)  # five score more
        hurried(changing, floor)
        version = json.loads((changing.base / "bundle" / "manifest.json").read_bytes())
        (notice,) = until(page, lambda: texts(page, ".notice"))
        assert notice.startswith("Another version is live.")
        assert f"live is model version {version['model_version']}, items_seq" in notice

        ranked(page, request)
        (notice,) = texts(page, ".notice")
        assert notice == (
            "Fallback. rank was skipped: the time left before its deadline is less than its recent p99. The answer is "
            "ordered by prerank."
        )
        _, prerank, answer = rows(page, "#flow")
        assert prerank[:-1] == ["prerank", f"9\nscore ≥ {floor}", "16", "5", f"11\n4 below {floor}"]
        assert answer[:-1] == ["answer, in prerank's order", "2", "5", "2", "3"]
        outcomes = [row[1] for row in rows(page, "#candidates")]
        assert outcomes[:5] == ["kept"] * 2 + ["over rank's quota"] * 3
        assert [option.text for option in Select(at(page, "#outcome")).options][1] == "kept (2)"
        assert outcomes[5:] == [f"cut by prerank, below {floor}"] * 4 + ["cut by prerank"] * 7
        assert [row[:2] for row in rows(page, "#time")][-1] == ["rank", "–"]
        (changing.base / "bundle" / "manifest.json").write_text("{")
        until(page, lambda: at(page, "#ready").text.startswith("Serving, but not up to date: "))
        assert "manifest.json: damaged" in at(page, "#ready").text


def test_a_token_is_asked_for_and_sent_but_never_in_a_url(
    browser: Chrome, case: Case, tmp_path: Path
) -> None:
    secret = add_token(tmp_path / "tokens", "web", "read")
    with service(case.base / "bundle", "--tokens", str(tmp_path / "tokens")) as address:
        browser.get(address)
        until(browser, lambda: at(browser, "#token").is_displayed())
        assert "Authorization: Bearer TOKEN" in at(browser, "#ready").text
        at(browser, "#token").send_keys(secret, Keys.TAB)
        until(browser, lambda: at(browser, "#ready").text == "Ready")
        at(browser, "#example").click()
        until(browser, lambda: at(browser, "#said").text.endswith(", 16 candidates"))
        at(browser, "#rank").click()
        until(browser, lambda: "16 candidates ranked" in at(browser, "#told").text)
        assert not any(secret in url for url in asked(browser))
        assert browser.execute_script("return JSON.stringify(localStorage)").find(secret) == -1
        browser.execute_script("sessionStorage.clear()")
    faults(browser)  # the refusals before the token was typed


# Two answers side by side


def answer_of(case: Case, request: Document) -> list[str]:
    """The ids of the funnel's answer in process."""
    return [item["id"] for item in case.funnel.rank(Request.parse(request | {"trace": True}))["items"]]


def test_two_requests_are_compared(page: Chrome, case: Case, request_: Document) -> None:
    other = request_ | {name: case.request("test", 3)[name] for name in ("user", "context", "time")}
    a, b = answer_of(case, request_), answer_of(case, other)
    assert a != b
    ranked(page, request_)
    at(page, "#keep").click()
    assert not at(page, "#compared").is_displayed()
    assert at(page, "#kept-text").text.endswith(
        "Rank another request, or this one again once another version is live."
    )
    ranked(page, other)
    assert texts(page, "#compared-answers h3") == ["A, kept", "B, the latest"]
    shown = {row[0]: row[1:] for row in rows(page, "#places")}
    assert shown.keys() == {*a, *b}
    for id_, (one, two, _, *outcomes) in shown.items():
        assert [one, two] == [str(answer.index(id_) + 1) if id_ in answer else "–" for answer in (a, b)]
        assert [outcome == "kept" for outcome in outcomes] == [id_ in a, id_ in b]
    both = {*a} & {*b}
    assert at(page, "#compared-said").text.startswith(f"{len(both)} item")
    Select(at(page, "#places-of")).select_by_index(3)
    assert {row[0] for row in rows(page, "#places")} == {*b} - {*a}
    at(page, "#stop").click()
    assert not at(page, "#compared").is_displayed() and not at(page, "#kept").is_displayed()
    assert page.switch_to.active_element == at(page, "#keep")


def test_an_answer_is_saved_and_compared_with_that_of_another_version(
    page: Chrome, case: Case, request_: Document, tmp_path: Path
) -> None:
    """As from another service: the file says which version made it. Any other file changes nothing."""
    ranked(page, request_)
    page.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    at(page, "#save").click()
    (file,) = until(page, lambda: [*tmp_path.glob("answer-*.json")])
    saved = json.loads(file.read_text(encoding="utf-8"))
    saved["answer"]["model_version"] = HOSTILE
    saved["answer"]["items"].reverse()
    file.write_text(json.dumps(saved), encoding="utf-8")
    at(page, "#saved").send_keys(str(file))
    until(page, lambda: at(page, "#compared").is_displayed())
    assert "Two versions ranked them." in at(page, "#compared-said").text
    assert HOSTILE in texts(page, "#compared-answers p")[0]
    ids = answer_of(case, request_)
    assert [row[:3] for row in rows(page, "#places")] == [
        [id_, str(len(ids) - n), str(n + 1)] for n, id_ in enumerate(ids)
    ]
    for wrong in ("{", json.dumps(saved | {"version": {}})):
        file.write_text(wrong, encoding="utf-8")
        at(page, "#saved").send_keys(str(file))
        until(page, lambda: at(page, "#said").text == "Not an answer that this page saved.")
        typed(page, json.dumps(request_))
        until(page, lambda: at(page, "#said").text.startswith("user "))
        assert HOSTILE in texts(page, "#compared-answers p")[0]


# For everyone: by keys, in the dark, on a phone, by ear


def test_it_is_used_by_keys_alone(page: Chrome, request_: Document) -> None:
    def press(*keys: str) -> WebElement:
        ActionChains(page).send_keys(*keys).perform()
        element: WebElement = page.switch_to.active_element
        return element

    until(page, lambda: at(page, "#ready").text == "Ready")
    assert press(Keys.TAB).text == "Skip to the request"
    assert at(page, ".skip").rect["y"] >= 0, "it is shown once it has the focus"
    press(Keys.ENTER)
    typed(page, json.dumps(request_))
    names = [press(Keys.TAB).get_attribute("id") for _ in range(5)]
    assert names == ["body", "rank", "example", "file", "saved"]
    at(page, "#rank").send_keys(Keys.SPACE)
    until(page, lambda: at(page, "#told").text)
    link = at(page, "#candidates .link")
    page.execute_script("arguments[0].focus({focusVisible: true})", link)
    press(Keys.ENTER)
    until(page, lambda: at(page, "#item").is_displayed())
    assert page.switch_to.active_element == at(page, "#item")
    assert press(Keys.ESCAPE) == link
    assert not at(page, "#item").is_displayed()
    dot = at(page, "circle[tabindex='0']")
    page.execute_script("arguments[0].focus()", dot)
    press(Keys.ENTER)
    until(page, lambda: at(page, "#item").is_displayed())
    assert press(Keys.ESCAPE) == dot


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_it_breaks_no_rule_of_accessibility(
    page: Chrome, case: Case, request_: Document, width: int, scheme: str
) -> None:
    """Empty, compared, and with an item open; nothing is wider than a phone."""
    narrow = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    Select(at(page, "#scheme")).select_by_value(scheme)
    assert violations(page) == []
    ranked(page, request_)
    at(page, "#keep").click()
    ranked(page, request_ | {"user": case.request("test", 3)["user"]})
    at(page, "#candidates .link").send_keys(Keys.ENTER)
    until(page, lambda: at(page, "#item").text)
    assert violations(page) == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_script("document.title = ''")
    assert any(line.startswith("document-title") for line in violations(page)), "axe looks"
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_page_is_a_stage_and_says_what_moved_an_item(browser: Chrome) -> None:
    case = shared_case(PAGED)
    assert case.funnel
    asked_for = case.request("test", 0) | {"candidates": case.items["item_id"].to_list(), "trace": True}
    wanted = case.funnel.run(Request.parse(asked_for))
    with service(case.base / "bundle") as address, opened(browser, address) as page:
        until(page, lambda: "page keeps 4" in texts(page, "#stages")[0])
        ranked(page, asked_for)
        flow = until(page, lambda: rows(page, "#flow"))
        assert [row[0] for row in flow] == ["candidates", "prerank", "rank", "page"]
        assert flow[-1][1:4] == ["4", "8", "4"]
        outcomes = {row[0]: row[1] for row in rows(page, "#candidates")}
        assert [id_ for id_, words in outcomes.items() if words.startswith("kept")] == [
            str(id_) for id_ in wanted.ids
        ]
        for entry in wanted.trace:
            moved = entry["stages"].get("page", {}).get("moved")
            assert ("passed over at slot" in outcomes[str(entry["id"])]) == (moved is not None)

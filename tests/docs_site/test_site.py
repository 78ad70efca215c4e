"""The site builds, and the check of rendered pages finds what it is for."""

from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.ui import WebDriverWait

from docs_site.build import build, complete_nav
from docs_site.pages import Page
from docs_site.rendered import find_faults
from tests.support.browser import asked, chromium, faults
from tests.support.notebooks import executed
from tests.support.waiting import PATIENCE

FOCUSED = "document.activeElement.shadowRoot"
"""The search lives in a shadow tree."""


@pytest.mark.slow
@pytest.mark.browser
def test_the_site_builds_and_can_be_searched_as_files(tmp_path: Path) -> None:
    site = tmp_path / "site"
    build(tmp_path / "staged", site, executed)
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert {"index.html", "reference/losses/click.html", "source/corank/models/mlp.py.html"} <= pages
    with chromium(tmp_path / "profile") as window:
        search(window, site / "index.html", "distill", "losses/distill.html")
        assert window.execute_script(f"return {FOCUSED}.activeElement.placeholder") == "Search"
        search(window, site / "concepts" / "funnel.zh-CN.html", "蒸馏", "losses.zh-CN.html")
        assert window.execute_script(f"return {FOCUSED}.activeElement.placeholder") == "搜索"
        assert "条结果" in window.execute_script(f"return {FOCUSED}.textContent")
        assert faults(window) == []
        assert not [url for url in asked(window) if url.startswith(("http:", "https:"))]
    chinese = (site / "concepts" / "funnel.zh-CN.html").read_text(encoding="utf-8")
    assert 'lang="zh"' in chinese and "目录" in chinese and "On this page" not in chinese
    assert 'href="./funnel.html"' in chinese


def search(window: Chrome, page: Path, word: str, expected: str) -> None:
    """Search from a page for a word, and wait for a link whose address holds `expected`."""
    window.get(page.as_uri())
    wait = WebDriverWait(window, PATIENCE)
    wait.until(element_to_be_clickable((By.CSS_SELECTOR, ".md-search__button"))).click()
    wait.until(lambda window: window.execute_script(f"return {FOCUSED}?.activeElement?.tagName") == "INPUT")
    ActionChains(window).send_keys(word).perform()
    links = f"return [...{FOCUSED}.querySelectorAll('a')].map((link) => link.getAttribute('href'))"
    wait.until(lambda window: any(expected in link for link in window.execute_script(links)))


def test_a_rendered_page_is_searched_for_faults(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<link rel="stylesheet" href="https://fonts.example/a.css"><script src="b.js"></script>'
        '<h1 id="top">A</h1><a href="#top">1</a><a href="b.html#gone">2</a><a href="c.html">3</a>'
        '<a href="https://example.org">4</a><pre class="mermaid">graph</pre>'
    )
    (tmp_path / "b.html").write_text("<p>B</p>")
    (tmp_path / "a.css").write_text("@import url(//fonts.example/b.css); a {background: url(data:image/png)}")
    faults = find_faults(tmp_path)
    assert [fault.partition(", ")[0] for fault in faults] == [
        "a.html: a Mermaid diagram",
        "a.html: loads https://fonts.example/a.css",
        "a.html: link to b.js",
        "a.html: link to b.html#gone",
        "a.html: link to c.html",
        "a.css: loads //fonts.example/b.css",
    ]


def test_the_navigation_names_every_page_and_no_other() -> None:
    generated = [Page("reference/losses/click.md", "click", ""), Page("reference/cli/train.md", "train", "")]
    nav = [{"Home": "README.md"}, {"Losses": ["reference/losses/"]}, {"Commands": ["reference/cli/"]}]
    written = {"README.md", *(page.path for page in generated), "source/a.md"}
    assert complete_nav(nav, generated, written)[1] == {"Losses": [{"click": "reference/losses/click.md"}]}
    with pytest.raises(ValueError, match=r"nav lacks guide\.md"):
        complete_nav(nav, generated, {*written, "guide.md"})
    with pytest.raises(ValueError, match=r"names pages that do not exist: README\.md"):
        complete_nav(nav, generated, written - {"README.md"})

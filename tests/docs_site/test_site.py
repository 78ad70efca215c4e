"""The site builds, and the check of rendered pages finds what it is for."""

from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.ui import WebDriverWait

from docs_site.build import build
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
    assert {"index.html", "reference/losses/click.html", "source/corank/losses/base.py.html"} <= pages
    with chromium(tmp_path / "profile") as window:
        search(window, site / "index.html", "distill", "losses/distill.html")
        assert window.execute_script(f"return {FOCUSED}.activeElement.placeholder") == "Search"
        search(window, site / "concepts.zh-CN.html", "蒸馏", "losses.zh-CN.html")
        assert window.execute_script(f"return {FOCUSED}.activeElement.placeholder") == "搜索"
        assert "条结果" in window.execute_script(f"return {FOCUSED}.textContent")
        assert faults(window) == []
        assert not [url for url in asked(window) if url.startswith(("http:", "https:"))]
    chinese = (site / "concepts.zh-CN.html").read_text(encoding="utf-8")
    assert 'lang="zh"' in chinese and "目录" in chinese and "On this page" not in chinese
    assert 'href="./concepts.html"' in chinese


def search(window: Chrome, page: Path, word: str, expected: str) -> None:
    """Search from a page for a word, and wait for a link whose address holds `expected`."""
    window.get(page.as_uri())
    wait = WebDriverWait(window, PATIENCE)
    wait.until(element_to_be_clickable((By.CSS_SELECTOR, ".md-search__button"))).click()
    wait.until(lambda window: window.execute_script(f"return {FOCUSED}?.activeElement?.tagName") == "INPUT")
    ActionChains(window).send_keys(word).perform()
    links = f"return [...{FOCUSED}.querySelectorAll('a')].map((link) => link.getAttribute('href'))"
    wait.until(lambda window: any(expected in link for link in window.execute_script(links)))

"""The search in Chinese: Zensical's index names one language, and its window is English whatever the page is."""

import re
from pathlib import Path

WORDS = {
    "Search": "搜索",
    "Search results": "搜索结果",
    "Close search": "关闭搜索",
    "result": "条结果",
    "results": "条结果",
    "No results": "没有结果",
    "Loading search\\u2026": "正在载入…",
    "Filters": "筛选",
    "Tags": "标签",
}
"""The words of the search window, as they stand in Zensical's script."""


def translate_search(site: Path) -> None:
    """Split Chinese sentences into words when searching, and let the window speak Chinese on Chinese pages.

    Raises ValueError if the files of the site are not those of the Zensical that this was written for.
    """
    for name in ("search.js", "search.json"):
        _replace(site / name, r'"lang":\["en"\]', '"lang":["en","zh"]')
    (script,) = (site / "assets" / "javascripts").glob("bundle.*.min.js")
    for english, chinese in WORDS.items():
        word = f'"{english}"'
        choice = f'(document.documentElement.lang==="zh"?"{chinese}":{word})'
        _replace(script, rf"(?<=[:=?]){re.escape(word)}", choice)


def _replace(file: Path, pattern: str, new: str) -> None:
    text, found = re.subn(pattern, lambda _: new, file.read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"{file.name}: expected {pattern}")
    file.write_text(text, encoding="utf-8")

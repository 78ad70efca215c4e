"""Build the site: hand-written and generated pages into build/docs, rendered into site/, then checked."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence, Set
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from docs_site.base_pages import base_pages
from docs_site.command_pages import command_pages
from docs_site.config_pages import config_pages
from docs_site.metric_pages import metric_pages
from docs_site.notebooks import keep_executed, read_notebook, to_page
from docs_site.pages import ROOT, Page, relative
from docs_site.part_pages import part_pages
from docs_site.plots import PLOT, describe, draw, read_plot
from docs_site.python_pages import config_module_page, python_pages
from docs_site.rendered import find_faults, translate_search
from docs_site.sources import SourcePages, rewrite

STAGED = ROOT / "build" / "docs"
EXECUTED = ROOT / "build" / "notebooks"
SITE = ROOT / "site"
executed_notebook = partial(keep_executed, folder=EXECUTED)
"""Gives a notebook with its outputs, of an earlier build if nothing has changed since."""


def reference_pages() -> list[Page]:
    """All pages that are generated from the code."""
    settings = [*config_pages(), *part_pages()]
    others = [*command_pages(), *python_pages(), *metric_pages(), *base_pages()]
    return [*settings, *others, config_module_page(settings)]


def stage(folder: Path, executed: Callable[[Path], Any] = executed_notebook) -> None:
    """Write the pages, and mkdocs.yml with the whole navigation, into an empty folder.

    Args:
        folder: an empty one.
        executed: gives a notebook with its outputs.

    Raises ValueError if a page of docs/ is not in the navigation, or the navigation names one that does not exist.
    """
    docs, pages = ROOT / "docs", folder / "docs"
    shutil.copytree(docs, pages)
    by_hand = {
        path.relative_to(docs).as_posix(): path.read_text("utf-8") for path in sorted(docs.rglob("*.md"))
    }
    texts = {name: _with_plots(name, text, pages) for name, text in by_hand.items()}
    for path in sorted(docs.rglob("*.ipynb")):
        target = path.relative_to(docs).with_suffix(".md")
        texts[target.as_posix()], files = to_page(executed(path), path.stem)
        for file, content in files.items():
            _write(pages / target.parent / file, content)
    generated = reference_pages()
    for page in generated:  # below what is written by hand under its path
        above, below = texts.get(page.path), page.text.partition("\n")[2]
        texts[page.path] = f"{above.rstrip()}\n\n{below}" if above else page.text
    sources = SourcePages()
    for name, text in texts.items():
        linked = rewrite(f"docs/{name}", text, partial(sources.place, name))
        _write(pages / name, _front_matter(name, by_hand) + linked)
    for page in sources.pages():
        _write(pages / page.path, page.text)
    config = complete_nav((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), generated, set(texts))
    _write(folder / "mkdocs.yml", config.replace("custom_dir: ", f"custom_dir: {ROOT}/"))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _with_plots(name: str, text: str, pages: Path) -> str:
    """Draw the tables of a page that ask for it, and show each drawing above its table."""
    numbers = count(1)

    def show(found: re.Match[str]) -> str:
        plot = read_plot(found)
        image = f"images/plots/{name.removesuffix('.md').replace('/', '-')}-{next(numbers)}.svg"
        _write(pages / image, draw(plot))
        return f"![{describe(plot)}]({relative(name, image)})\n\n{found[2]}"

    return PLOT.sub(show, text)


def _front_matter(name: str, names: Collection[str]) -> str:
    """What docs_site/theme reads of a page that exists as NAME.md and, in Chinese, as NAME.zh-CN.md; else nothing.

    Args:
        name: of the page, within docs/.
        names: of all pages.
    """
    base = name.removesuffix(".md").removesuffix(".zh-CN")
    if not {f"{base}.md", f"{base}.zh-CN.md"} <= set(names):
        return ""
    language = "zh" if name.endswith(".zh-CN.md") else "en"
    english = re.sub(r"\bREADME$", "index", base)  # as Zensical renders it
    return f"---\nlanguage: {language}\nenglish: {english}.html\nchinese: {base}.zh-CN.html\n---\n\n"


def complete_nav(config: str, generated: Sequence[Page], written: Set[str]) -> str:
    """Put the generated pages into the navigation, in the place of each folder that ends with a slash.

    Args:
        config: mkdocs.yml.
        generated: the pages of the reference.
        written: the paths of all pages.

    Raises ValueError if a page is not in it, or it names one that does not exist.
    """

    def expand(folder: re.Match[str]) -> str:
        inner = [{page.title: page.path} for page in generated if page.path.rpartition("/")[0] == folder[1]]
        return json.dumps(inner, ensure_ascii=False)

    config = re.sub(r"\[([\w/]+)/\]", expand, config)
    named = set(re.findall(r"[^\s\"]+\.md\b", config.partition("\nnav:\n")[2]))
    if lacking := written - named:
        raise ValueError(f"mkdocs.yml: nav lacks {', '.join(sorted(lacking))}")
    if gone := named - written:
        raise ValueError(f"mkdocs.yml: nav names pages that do not exist: {', '.join(sorted(gone))}")
    return config


def build(
    staged: Path = STAGED, site: Path = SITE, executed: Callable[[Path], Any] = executed_notebook
) -> None:
    """Stage, render and check the site.

    Args:
        staged: the folder of the pages before they are rendered; made anew.
        site: the folder of the site; made anew.
        executed: gives a notebook with its outputs.

    Raises ValueError if the navigation or a link is wrong.
    """
    for folder in (staged, site):
        shutil.rmtree(folder, ignore_errors=True)
    staged.mkdir(parents=True)
    stage(staged, executed)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "mkdocs.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=staged)
    if done.returncode:
        raise ValueError(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr.partition("Traceback")[0]))
    shutil.move(staged / "site", site)
    translate_search(site)
    if faults := list(find_faults(site)):
        raise ValueError("\n".join(faults))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/docs", description="Build the documentation site.")
    parser.add_argument(
        "--no-notebooks", action="store_true", help="show the notebooks without their outputs"
    )
    given = parser.parse_args()
    try:
        build(executed=read_notebook if given.no_notebooks else executed_notebook)
    except ValueError as error:
        sys.exit(f"scripts/docs: {error}")
    print(f"{SITE}/index.html")

"""Build the site: hand-written and generated pages into build/docs, rendered into site/, then checked."""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from docs_site.command_pages import command_pages
from docs_site.config_pages import config_pages
from docs_site.languages import front_matter
from docs_site.notebooks import keep_executed, read_notebook, to_page
from docs_site.pages import Page, relative
from docs_site.part_pages import part_pages
from docs_site.plots import describe, draw, read_plots
from docs_site.python_pages import config_module_page, python_pages
from docs_site.rendered import find_faults
from docs_site.search import translate_search
from docs_site.sources import SourcePages, rewrite

ROOT = Path(__file__).parents[1]
STAGED = ROOT / "build" / "docs"
EXECUTED = ROOT / "build" / "notebooks"
SITE = ROOT / "site"


def executed_notebook(path: Path) -> Any:
    """A notebook with its outputs, of an earlier build if nothing has changed since."""
    return keep_executed(path, EXECUTED)


def reference_pages() -> list[Page]:
    """All pages that are generated from the code."""
    settings = [*config_pages(), *part_pages()]
    return [*settings, *command_pages(), *python_pages(), config_module_page(settings)]


def stage(folder: Path, executed: Callable[[Path], Any] = executed_notebook) -> None:
    """Write the pages, and mkdocs.yml with the whole navigation, into an empty folder.

    Args:
        folder: an empty one.
        executed: gives a notebook with its outputs.

    Raises ValueError if a page of docs/ is not in the navigation, or the navigation names one that does not exist.
    """
    sources = SourcePages()
    pages = folder / "docs"
    by_hand = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    for path in sorted((ROOT / "docs").rglob("*")):
        name = path.relative_to(ROOT / "docs").as_posix()
        target = pages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = _with_plots(name, path.read_text(encoding="utf-8"), pages)
            target.write_text(front_matter(name, by_hand) + _mend(name, text, sources), encoding="utf-8")
        elif path.is_file():
            shutil.copyfile(path, target)
        if path.suffix == ".ipynb":
            shown = to_page(executed(path), path.stem)
            target.with_suffix(".md").write_text(_mend(name, shown.text, sources), encoding="utf-8")
            for file, content in shown.files.items():
                (target.parent / file).write_text(content, encoding="utf-8")
    generated = reference_pages()
    for page in generated:
        _write(pages, Page(page.path, page.title, _mend(page.path, page.text, sources)))
    for page in sources.pages():
        _write(pages, page)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    written = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    config["theme"]["custom_dir"] = str(ROOT / config["theme"]["custom_dir"])
    config["nav"] = complete_nav(config["nav"], generated, written)
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _with_plots(name: str, text: str, pages: Path) -> str:
    """Draw the tables of a page that ask for it, and show each drawing above its table."""
    plots = list(read_plots(text))
    for n, (found, plot) in reversed(list(enumerate(plots, 1))):
        image = f"images/plots/{name.removesuffix('.md').replace('/', '-')}-{n}.svg"
        (pages / image).parent.mkdir(parents=True, exist_ok=True)
        (pages / image).write_text(draw(plot), encoding="utf-8")
        shown = f"![{describe(plot)}]({relative(name, image)})\n\n{found[2]}"
        text = text[: found.start()] + shown + text[found.end() :]
    return text


def _mend(name: str, text: str, sources: SourcePages) -> str:
    return rewrite(f"docs/{name}", text, lambda target: sources.place(name, target))


def _write(pages: Path, page: Page) -> None:
    """Write a generated page; what is written by hand under its path stands above what is generated."""
    target = pages / page.path
    target.parent.mkdir(parents=True, exist_ok=True)
    by_hand = target.read_text(encoding="utf-8") if target.exists() else ""
    title, _, rest = page.text.partition("\n")
    text = f"{by_hand.rstrip()}\n\n{rest}" if by_hand else f"{title}\n{rest}"
    target.write_text(text, encoding="utf-8")


def complete_nav(nav: list[Any], generated: list[Page], written: set[str]) -> list[Any]:
    """Put the generated pages into the navigation.

    Args:
        nav: of mkdocs.yml.
        generated: the pages of the reference.
        written: the paths of all pages.

    Raises ValueError if a page is not in it, or it names one that does not exist.
    """
    nav = list(_expand(nav, generated))
    named = set(_named(nav))
    if lacking := {path for path in written if not path.startswith(("project/", "source/"))} - named:
        raise ValueError(f"mkdocs.yml: nav lacks {', '.join(sorted(lacking))}")
    if named - written:
        raise ValueError(
            f"mkdocs.yml: nav names pages that do not exist: {', '.join(sorted(named - written))}"
        )
    return nav


def _expand(entries: list[Any], generated: list[Page]) -> Iterator[Any]:
    """The navigation, with the generated pages in the place of each folder that ends with a slash."""
    for entry in entries:
        match entry:
            case str() if entry.endswith("/"):
                yield from (
                    {page.title: page.path}
                    for page in generated
                    if PurePosixPath(page.path).parent == PurePosixPath(entry)
                )
            case dict():
                yield {
                    title: list(_expand(inner, generated)) if isinstance(inner, list) else inner
                    for title, inner in entry.items()
                }
            case _:
                yield entry


def _named(entries: Any) -> Iterator[str]:
    """The pages of a navigation."""
    match entries:
        case list():
            for entry in entries:
                yield from _named(entry)
        case dict():
            yield from _named(list(entries.values()))
        case _:
            yield entries


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
    command = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--config-file",
        str(staged / "mkdocs.yml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=staged)
    if done.returncode:
        raise ValueError(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr.partition("Traceback")[0]))
    shutil.move(staged / "site", site)
    translate_search(site)
    if faults := find_faults(site):
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

"""Faults that axe-core finds in the page of a window, for people who use it by keys, magnified or by ear."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from selenium.webdriver import Chrome

RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"], rules: {"target-size": {enabled: true}}}).then(
  ({violations}) => done(violations.flatMap(({id, help, nodes}) => nodes.map((node) =>
    `${id}: ${help}: ${node.html.slice(0, 200)}: ${node.failureSummary}`))),
  (error) => done([`axe: ${error}`]));
"""


@cache
def _axe() -> str:
    """The script of axe-core, which axe-playwright-python brings; its Python part is not loaded."""
    spec = find_spec("axe_playwright_python")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(window: Chrome) -> list[str]:
    """Every rule that the page breaks, with the element; target sizes of WCAG 2.2 included."""
    window.execute_script(_axe())
    return list(window.execute_async_script(RUN))

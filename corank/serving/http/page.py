"""The page of the service: a request's way through the funnel, as one HTML document with its style and script.

Its content security policy lets it fetch from its own service and nowhere else.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from string import Template

SCRIPTS = ("dom", "scheme", "service", "request", "flow", "rank_plot", "candidates", "compare", "page")
"""What the page's own script, which comes last, is made of."""


@cache
def funnel_page() -> str:
    """Return the HTML document."""
    style = _read("page.css")
    script = "\n".join(_read(f"{part}.js") for part in SCRIPTS)
    policy = {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "style-src": _only(style),
        "script-src": _only(script),
        "base-uri": "'none'",
        "form-action": "'none'",
        # the browser refuses to turn text into markup, whatever the script does
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return Template(_read("page.html")).substitute(
        policy="; ".join(f"{name} {value}" for name, value in policy.items()), style=style, script=script
    )


def _read(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def _only(content: str) -> str:
    """The source expression that allows inline content by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

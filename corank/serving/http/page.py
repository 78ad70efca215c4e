"""The page of the service: a request's way through the funnel, as one document that holds its style and its script.

It asks the service that it came from and nobody else, and its policy lets it do no more.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from string import Template

SCRIPTS = ("dom", "service", "request", "flow", "places", "candidates")
"""What the page's own script, which comes last, is made of."""


@cache
def funnel_page() -> str:
    """The whole document."""
    style = _read("funnel.css")
    script = "\n".join([*(_read(f"funnel.{part}.js") for part in SCRIPTS), _read("funnel.js")])
    policy = {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "style-src": _only(style),
        "script-src": _only(script),
        "base-uri": "'none'",
        "form-action": "'none'",
        # text can never become markup, whatever the script does
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return Template(_read("funnel.html")).substitute(
        policy="; ".join(f"{name} {value}" for name, value in policy.items()), style=style, script=script
    )


def _read(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def _only(content: str) -> str:
    """Of a policy: inline content of this digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

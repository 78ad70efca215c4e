"""The service, called from Python."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml

from corank.core.errors import ConfigError, CorankError
from corank.core.objects import PathOrUrl, require_local
from corank.core.options import Option
from corank.core.settings import validate
from corank.training.config.yaml_values import read_yaml_file
from corank.training.run_file import RUN_FILE
from corank_serve.http.serve_settings import ServeSettings
from corank_serve.http.server import run_service, serve_here
from corank_serve.store.base import hide_password

if TYPE_CHECKING:
    from corank.core.reports import Report

BUNDLE = "bundle"
"""Folder of a run; its modules would load what the parent of a service does not need."""


def is_loop_running() -> bool:
    """Whether this thread runs an event loop, such as that of a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def read_serve_settings(config: Path | None, given: Mapping[str, Any]) -> ServeSettings:
    """Read the settings of a service. Raises ConfigError, which names the file or the command line, and the key.

    Args:
        config: a YAML file whose keys are the options with underscores; None for none.
        given: settings that count more than those of the file.
    """
    read = {} if config is None else read_yaml_file(config)
    if not isinstance(read, dict):
        raise ConfigError(f"{config}: expected keys with values, such as `source: lmdb:/srv/shop`")
    if config is not None:
        validate(ServeSettings, {"source": ""} | read, str(config))
    return validate(ServeSettings, read | dict(given), "corank serve")


def format_serve_settings(settings: ServeSettings) -> str:
    """Write settings as the YAML that `read_serve_settings` reads, without the password of a store."""
    values = settings.model_dump(mode="json") | {"source": hide_password(settings.source)}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def with_bundle(settings: ServeSettings, report: "Report") -> ServeSettings:
    """Settings whose source is a bundle or a store; of a run, its bundle. Raises CorankError as `locate_bundle`."""
    return settings.model_copy(update={"source": locate_bundle(settings.source, report)})


def locate_bundle(source: str, report: "Report") -> str:
    """Return the bundle to serve: RUN/bundle if the source is the folder of a run, else the source itself.

    A run's bundle is exported if there is none. It is made by another process, since a service loads no torch.

    Args:
        source: a bundle's folder or URL, a store, or the folder of a finished run.
        report: takes a line about the export.

    Raises:
        CorankError: the run cannot be exported.
    """
    run = Path(source)
    if not (run / RUN_FILE).is_file():
        return source
    bundle = run / BUNDLE
    if not (bundle / "manifest.json").is_file():
        report(f"{run}: exporting its bundle to {bundle}")
        command = [sys.executable, "-m", "corank", "export", str(run), str(bundle)]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            raise CorankError((errors or [done.stderr])[0].removeprefix("error: "))
    return str(bundle)


def serve(source: PathOrUrl, report: "Report" = lambda line: None, **settings: Any) -> None:
    """Rank over HTTP until the process is stopped: by Ctrl-C, or the kernel's stop button.

    Args:
        source: a bundle's folder or its URL, or the address of a store, whose live version is followed; or the folder
            of a finished run, whose bundle is exported into it if it has none.
        report: takes a line about the address, each new version, and errors.
        settings: the options of `corank serve`, with underscores: `host`, `port`, `workers`, `log`, `tokens`, … One
            worker serves in this process; without `workers` there is one a core.

    Raises ConfigError for an unknown setting, and CorankError if there is nothing to serve, the address is taken,
    or a folder cannot be written.

    Example:
        >>> corank.serve("bundle", port=8000, worker=1)
        Traceback (most recent call last):
        corank.core.errors.ConfigError: corank serve: (top level): unknown key 'worker'; did you mean 'workers'?
    """
    if is_loop_running():
        raise ConfigError(
            "corank.serve: an event loop runs in this thread, as in a notebook; call it in one of its own: "
            "threading.Thread(target=corank.serve, args=[SOURCE], kwargs={'workers': 1}, daemon=True).start()"
        )
    read = with_bundle(read_serve_settings(None, settings | {"source": str(source)}), report)
    if read.workers == 1:
        serve_here(read, report)
    else:
        run_service(lambda: read, report)


def token(
    name: str,
    tokens: Annotated[PathOrUrl, Option("--tokens")],
    scope: Annotated[Literal["read", "write", "admin"], Option("--scope")],
    report: "Report" = lambda line: None,
) -> str:
    """Make a token, print it, and add its hash to the file that `corank serve --tokens` reads.

    Args:
        name: of the client, which the audit names.
        tokens: file of tokens, made if missing.
        scope: read: rank; write: insert items, too; admin: reload, too.
        report: takes a line about the file.

    Returns the token, which is stored nowhere. Raises ConfigError if the file cannot be written.

    Example:
        >>> len(corank.token("feed", "tokens", "write")) > 40
        True
    """
    from corank_serve.http.tokens import add_token

    path = require_local(tokens)
    secret = add_token(path, name, scope)
    report(f"{path}: {name} may {scope}; its token follows, and is stored nowhere")
    return secret

"""`corank serve`: the service as a process of its own, whose settings the command line and a file give."""

import sys
from typing import Annotated, Any

from corank.core.objects import PathOrUrl, require_local
from corank.core.options import Option
from corank.core.reports import Report
from corank_serve.http.serve_settings import ServeSettings


def serve(
    report: Report,
    source: Annotated[PathOrUrl | None, Option("SOURCE")] = None,
    config: PathOrUrl | None = None,
    print_config: bool = False,
    **settings: Annotated[Any, ServeSettings],
) -> None:
    """Rank over HTTP. Clients that write must send CORANK_TOKEN, or a token of --tokens.

    Args:
        report: receives a line about the address, each new version, and errors.
        source: A bundle, a store or a run; may be a key of --config instead.
        config: YAML file of these options, with underscores, and `source`; options of the command line count more.
        print_config: Check settings and the files that they name, print them, end.
        settings: those of the service.
    """
    from corank_serve.api.serving import format_serve_settings, read_serve_settings, with_bundle
    from corank_serve.http.process.worker_process import EXIT_SECONDS, end_process_after
    from corank_serve.http.server import run_service
    from corank_serve.http.startup import check_files

    file = None if config is None else require_local(config)
    options = settings if source is None else settings | {"source": source}
    if print_config:
        read = read_serve_settings(file, options)
        check_files(read)
        sys.stdout.write(format_serve_settings(read))
        return
    run_service(lambda: with_bundle(read_serve_settings(file, options), report), report)
    end_process_after(EXIT_SECONDS)

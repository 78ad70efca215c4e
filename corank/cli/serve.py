"""The commands of the service: serve a bundle or a store over HTTP, and make tokens of its clients."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from corank.cli.options import Trust, local_path
from corank.cli.stores import Cache

service = typer.Typer()

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")]
Port = Annotated[int, typer.Option(min=0, max=65535)]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Worker processes; default: as many as there are cores.")
]
Every = Annotated[
    float, typer.Option(min=0.01, help="Seconds between two checks of the source for a new version.")
]
Log = Annotated[Path | None, typer.Option(parser=local_path, help="Folder to log served requests to.")]
LogShare = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of requests to log.")]
LogSeconds = Annotated[
    float,
    typer.Option(min=0.1, help="Time after which a file of the log is completed; a killed worker loses it."),
]
MaxClockSkew = Annotated[
    str,
    typer.Option(metavar="DURATION", help="How far a request's time may be from now: 5m, 1h, 1d."),
]
Canary = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION:SHARE%",
        help="A version of the store that a share of the users gets, such as 8f0c1d2e3a4b5c6d-1-1a2b3c4d:5%.",
    ),
]
Shadow = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION", help="A version of the store that is scored beside, in idle time, and logged."
    ),
]
Queue = Annotated[int, typer.Option(min=1, help="Requests that may wait for a worker.")]
BodyMib = Annotated[float, typer.Option(min=0.001, help="Largest body, MiB.")]
BodiesMib = Annotated[
    float, typer.Option(min=0.001, help="Bodies that are received or wait, in all, MiB per worker.")
]
Connections = Annotated[int, typer.Option(min=1, help="Open connections per worker.")]
ReceiveSeconds = Annotated[
    float,
    typer.Option(min=0.1, help="Time in which the head of a request must arrive, and then its body."),
]
IdleSeconds = Annotated[
    int, typer.Option(min=1, help="Time after which a connection without a request is closed.")
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A name by which clients call the service; repeatable. IP addresses always may."
    ),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Origin of a page that may call the service, such as https://rank.example; repeatable.",
    ),
]
ForwardedAllowIps = Annotated[
    str,
    typer.Option(metavar="IPS", help="Proxies whose X-Forwarded-For and -Proto are believed, with commas."),
]
TokensFile = Annotated[
    Path | None,
    typer.Option(parser=local_path, help="File of the clients' tokens, to which `corank token` adds."),
]
AuditFile = Annotated[
    Path | None,
    typer.Option(parser=local_path, help="File for a line about every write and reload; default: stderr."),
]
StoreDeadlineMs = Annotated[
    float, typer.Option(min=0.1, help="Longest time that a request waits for its user's columns, ms.")
]
DrainSeconds = Annotated[
    float,
    typer.Option(min=0.0, help="Time after SIGTERM in which requests go on, while /readyz is 503."),
]
StopSeconds = Annotated[
    float, typer.Option(min=0.0, help="Time after that in which what has begun is answered.")
]
TlsCert = Annotated[
    Path | None, typer.Option(parser=local_path, help="PEM file of the certificate and its chain.")
]
TlsKey = Annotated[
    Path | None, typer.Option(parser=local_path, help="PEM file of the certificate's private key.")
]


AccessLogFile = Annotated[
    Path | None,
    typer.Option(
        parser=local_path, metavar="FILE|-", help="File for a JSON line about each request; - for stdout."
    ),
]
AccessLogUsers = Annotated[
    bool, typer.Option("--access-log-users", help="Name the user of a request in the access log.")
]
RateLimit = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Requests a second of each token that states no rate, and of all without a token together.",
    ),
]
Traces = Annotated[
    bool,
    typer.Option(
        "--traces", help="Send OpenTelemetry traces, as the variables OTEL_* say; needs the extra otel."
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        parser=local_path,
        metavar="FILE",
        help="YAML file of these options, with underscores, and `source`; options of the command line count more.",
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Check settings and the files that they name, print them, end.")
]


class ClientScope(StrEnum):
    """What a client may do; each includes those before it."""

    read = "read"
    write = "write"
    admin = "admin"


@service.command("serve")
def serve_command(
    ctx: typer.Context,
    source: Annotated[
        str | None, typer.Argument(metavar="BUNDLE|STORE|RUN", help="May be a key of --config instead.")
    ] = None,
    config: ConfigFile = None,
    print_config: PrintConfig = False,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Workers = None,
    every: Every = 1.0,
    cache: Cache = None,
    trust: Trust = None,
    canary: Canary = None,
    shadow: Shadow = None,
    log: Log = None,
    log_share: LogShare = 1.0,
    log_seconds: LogSeconds = 60.0,
    max_clock_skew: MaxClockSkew = "1d",
    queue: Queue = 64,
    body_mib: BodyMib = 4.0,
    bodies_mib: BodiesMib = 64.0,
    connections: Connections = 1000,
    receive_seconds: ReceiveSeconds = 10.0,
    idle_seconds: IdleSeconds = 75,
    allow_host: AllowHost = None,
    allow_origin: AllowOrigin = None,
    forwarded_allow_ips: ForwardedAllowIps = "",
    tokens: TokensFile = None,
    audit: AuditFile = None,
    access_log: AccessLogFile = None,
    access_log_users: AccessLogUsers = False,
    rate_limit: RateLimit = None,
    traces: Traces = False,
    store_deadline_ms: StoreDeadlineMs = 100.0,
    drain_seconds: DrainSeconds = 2.0,
    stop_seconds: StopSeconds = 10.0,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Rank over HTTP. Clients that write must send CORANK_TOKEN, or a token of --tokens."""
    from corank.api.serving import format_serve_settings, read_serve_settings, with_bundle
    from corank.cli import console
    from corank.serving.http.process.worker_process import EXIT_SECONDS, end_process_after
    from corank.serving.http.server import run_service
    from corank.serving.http.startup import check_files

    options = {name: value for name, value in ctx.params.items() if _is_given(ctx, name)}
    for name in ("config", "print_config"):
        options.pop(name, None)
    if print_config:
        settings = read_serve_settings(config, options)
        check_files(settings)
        sys.stdout.write(format_serve_settings(settings))
        return
    run_service(lambda: with_bundle(read_serve_settings(config, options), console.say), console.say)
    end_process_after(EXIT_SECONDS)


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether a parameter is on the command line; a default counts less than a key of the file."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@service.command("token")
def token_command(
    name: Annotated[str, typer.Argument(help="Who will bear it; the audit names it.")],
    tokens: Annotated[
        Path, typer.Option(parser=local_path, help="File of tokens; it is made if it is missing.")
    ],
    scope: Annotated[
        ClientScope, typer.Option(help="read: rank; write: insert items, too; admin: reload, too.")
    ],
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests that its bearer may send a second.")
    ] = None,
) -> None:
    """Make a token, print it, and add its hash to the file that `corank serve --tokens` reads."""
    from corank.cli import console
    from corank.serving.http.tokens import add_token

    secret = add_token(tokens, name, scope.value, rate)
    console.say(f"{tokens}: {name} may {scope.value}; its token follows, and is stored nowhere")
    sys.stdout.write(f"{secret}\n")

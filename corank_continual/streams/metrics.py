"""Metrics of `corank follow` for Prometheus, and who serves them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from corank.core.errors import ConfigError
from corank.core.version import register_version

HOST = "127.0.0.1"


class FollowMetrics:
    """The metrics of one process."""

    def __init__(self, address: str | None = None) -> None:
        """Make them, and serve /metrics at `[HOST:]PORT` if it is given. Raises ConfigError."""
        self.registry = registry = CollectorRegistry()
        register_version(registry)
        self.rows = Counter(
            "corank_follow_rows",
            "Rows by what became of them: applied, removed (tombstones), bad (to the dead letters), late (of a closed "
            "period, and in the next one)",
            ["outcome"],
            registry=registry,
        )
        self.messages = Counter("corank_follow_messages", "Messages applied", registry=registry)
        self.commits = Counter(
            "corank_follow_commits", "Changes written, each with its offsets", registry=registry
        )
        self.errors = Counter(
            "corank_follow_errors",
            "Errors after which it went on: of the broker, of the store, or of messages that another process applied "
            "(moved)",
            ["what"],
            registry=registry,
        )
        self.lag = Gauge(
            "corank_follow_lag",
            "Messages of a partition that are not applied; none while no broker answers, since nobody knows",
            ["partition"],
            registry=registry,
        )
        self.behind = Gauge(
            "corank_follow_behind_seconds",
            "Age of the message that was applied last, then",
            registry=registry,
        )
        self.periods = Counter("corank_follow_closed_periods", "Periods of the log closed", registry=registry)
        self.open_rows = Gauge(
            "corank_follow_open_rows", "Rows of the log whose period is open", registry=registry
        )

        if address is not None:
            self._serve(address)

    def _serve(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdigit() or int(port) > 65_535:
            raise ConfigError(f"--metrics: expected [HOST:]PORT; received {address!r}")
        try:
            start_http_server(int(port), host.strip("[]") or HOST, self.registry)
        except OSError as error:
            raise ConfigError(f"--metrics {address}: {error.strerror or error}; name another port") from None

"""The service: HTTP, stores of published bundles, the log of what was served, roll-outs, the client."""

from corank.core.package import Package

_SERVED, _SERVING, _STORES = (f"corank_serve.api.{module}" for module in ("served", "serving", "stores"))
PACKAGE = Package(
    names={
        _SERVED: "ServedComparisonResult compare_served",
        _SERVING: "serve token",
        _STORES: "PublishResult promote prune publish replay roll_back store_log store_versions users withdraw",
    },
    commands={
        "Serve": {
            "serve": "corank_serve.command.serve",
            "token": f"{_SERVING}.token",
            "publish": f"{_STORES}.publish",
            "users": f"{_STORES}.users",
            "replay": f"{_STORES}.replay",
            "compare-served": f"{_SERVED}.compare_served",
            "store ls": f"{_STORES}.store_versions",
            "store log": f"{_STORES}.store_log",
            "store promote": f"{_STORES}.promote",
            "store withdraw": f"{_STORES}.withdraw",
            "store rollback": f"{_STORES}.roll_back",
            "store prune": f"{_STORES}.prune",
        }
    },
    groups={"store": "List a store's versions and its log; promote, withdraw, roll back, prune."},
)
"""What `corank` gets from here."""

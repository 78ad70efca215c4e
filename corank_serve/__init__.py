"""The service: HTTP, stores of published bundles, the log of what was served, roll-outs, the client."""

from corank.core.package import Package

_API = "corank.api"
PACKAGE = Package(
    names={
        f"{_API}.serving": "serve token",
        f"{_API}.bundles": "PublishResult",
        f"{_API}.evaluating": "compare_served",
        f"{_API}.results": "ServedComparisonResult",
        f"{_API}.stores": "promote prune publish replay roll_back store_log store_versions users withdraw",
    },
    commands={
        "Serve": {
            "serve": "corank.cli.serve.serve",
            "token": f"{_API}.serving.token",
            "publish": f"{_API}.stores.publish",
            "users": f"{_API}.stores.users",
            "replay": f"{_API}.stores.replay",
            "compare-served": f"{_API}.evaluating.compare_served",
            "store ls": f"{_API}.stores.store_versions",
            "store log": f"{_API}.stores.store_log",
            "store promote": f"{_API}.stores.promote",
            "store withdraw": f"{_API}.stores.withdraw",
            "store rollback": f"{_API}.stores.roll_back",
            "store prune": f"{_API}.stores.prune",
        }
    },
    groups={"store": "List a store's versions and its log; promote, withdraw, roll back, prune."},
)
"""What `corank` gets from here."""

"""The service: HTTP, stores of published bundles, the log of what was served, roll-outs, the client."""

from corank.core.package import Package

_API = "corank.api"
PACKAGE = Package(
    names={
        f"{_API}.serving": "serve token",
        "corank_serve.api.served": "ServedComparisonResult compare_served",
        "corank_serve.api.stores": "PublishResult promote prune publish replay roll_back store_log store_versions "
        "users withdraw",
    },
    commands={
        "Serve": {
            "serve": "corank_serve.command.serve",
            "token": f"{_API}.serving.token",
            "publish": "corank_serve.api.stores.publish",
            "users": "corank_serve.api.stores.users",
            "replay": "corank_serve.api.stores.replay",
            "compare-served": "corank_serve.api.served.compare_served",
            "store ls": "corank_serve.api.stores.store_versions",
            "store log": "corank_serve.api.stores.store_log",
            "store promote": "corank_serve.api.stores.promote",
            "store withdraw": "corank_serve.api.stores.withdraw",
            "store rollback": "corank_serve.api.stores.roll_back",
            "store prune": "corank_serve.api.stores.prune",
        }
    },
    groups={"store": "List a store's versions and its log; promote, withdraw, roll back, prune."},
)
"""What `corank` gets from here."""

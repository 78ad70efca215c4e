"""Learning over time: a run a day with its gate, topics that are followed, tables of a lakehouse."""

from corank.core.package import Package

PACKAGE = Package(
    names={
        "corank_continual.follow": "follow_items follow_log follow_users",
        "corank_continual.periods.daily": "daily",
        "corank_continual.periods.daily_result": "DailyResult",
    },
    commands={
        "Every day": {
            "daily": "corank_continual.periods.daily.daily",
            "follow items": "corank_continual.follow.follow_items",
            "follow users": "corank_continual.follow.follow_users",
            "follow log": "corank_continual.follow.follow_log",
        }
    },
    groups={"follow": "Follow a topic of Kafka (experimental): items or users into a store, or the log."},
)
"""What `corank` gets from here."""

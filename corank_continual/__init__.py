"""Learning over time: a run a day with its gate, topics that are followed, tables of a lakehouse."""

from corank.core.package import Package

PACKAGE = Package(
    names={
        "corank.api.streams": "follow_items follow_log follow_users",
        "corank.continual.daily": "daily",
        "corank.continual.daily_result": "DailyResult",
    },
    commands={
        "Every day": {
            "daily": "corank.continual.daily.daily",
            "follow items": "corank.api.streams.follow_items",
            "follow users": "corank.api.streams.follow_users",
            "follow log": "corank.api.streams.follow_log",
        }
    },
    groups={"follow": "Follow a topic of Kafka: items or users into a store, or the log."},
)
"""What `corank` gets from here."""

"""Topics of Kafka, followed: items and users into a store, joined candidates into the files of a log."""

"""The simulated feed: its world, the production system that logs it, and the log as tables and a config."""

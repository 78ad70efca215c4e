"""The functions behind the commands, on paths."""

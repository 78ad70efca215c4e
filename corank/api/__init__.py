"""The functions behind the commands, and their results: tables as frames, plots as figures, JSON."""

"""The functions behind the commands, on paths.

Results of the functions of corank: tables as frames, plots as figures, JSON, and how a notebook shows them.
"""

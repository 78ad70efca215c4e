"""Logs of served requests as tables, in which clients wrote what stands."""

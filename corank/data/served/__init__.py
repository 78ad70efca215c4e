"""Logs of served requests as tables, whose values clients wrote."""

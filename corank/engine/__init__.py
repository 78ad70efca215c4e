"""Engines that run a function over a list of tasks: in line, in a pool of processes, or on a cluster."""
